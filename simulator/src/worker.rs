//! A virtual worker: runs the batches that it was sent one after another, and gives back what is taken from it.
//! The counterpart of `local/worker.rs` and of `Claims` in `task.rs`; driven by the engine.

use std::collections::VecDeque;

use crate::clock::Nanos;
use crate::shapes::Items;

/// Consecutive items under one number, as they travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    /// Of this sending; a part that is sent again gets another.
    pub(crate) ticket: u64,
    /// Of the batch that it is a part of.
    pub(crate) batch: u64,
    pub(crate) first: u64,
    pub(crate) items: u32,
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.items)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Worker {
    waiting: VecDeque<Piece>,
    running: Option<Running>,
    /// Tells an end that still holds from one that was moved by a recall.
    pub(crate) version: u32,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    piece: Piece,
    /// Items before this are the worker's.
    limit: u32,
    since: Nanos,
}

impl Worker {
    /// A batch has come. Tells when the worker will be through with it, if it begins now.
    pub(crate) fn take(&mut self, piece: Piece, now: Nanos, overhead: Nanos, items: &Items) -> Option<Nanos> {
        self.waiting.push_back(piece);
        if self.running.is_some() { None } else { self.begin(now, overhead, items) }
    }

    /// The running batch is done: what was run of it, and its time. `begin` goes on.
    pub(crate) fn finish(&mut self, items: &Items) -> Option<(Piece, Nanos)> {
        let Running { piece, limit, .. } = self.running.take()?;
        let ran = Piece { items: limit, ..piece };
        Some((ran, items.between(ran.first, ran.end())))
    }

    /// Begins the next batch, if one waits. Returns its end.
    pub(crate) fn begin(&mut self, now: Nanos, overhead: Nanos, items: &Items) -> Option<Nanos> {
        let piece = self.waiting.pop_front()?;
        self.running = Some(Running { piece, limit: piece.items, since: now + overhead });
        self.version += 1;
        self.end(items)
    }

    /// When the running batch will be done.
    fn end(&self, items: &Items) -> Option<Nanos> {
        let running = self.running.as_ref()?;
        let end = running.piece.first + u64::from(running.limit);
        Some(running.since + items.between(running.piece.first, end))
    }

    /// Ticket of the running batch, and how many of its items have begun.
    pub(crate) fn begun(&self, now: Nanos, items: &Items) -> Option<(u64, u32)> {
        let running = self.running.as_ref()?;
        let first = running.piece.first;
        let spent = now.saturating_sub(running.since);
        // How many begin at or before now: the items before each are done by then.
        let (mut low, mut high) = (1, running.limit.max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if items.between(first, first + u64::from(middle)) <= spent {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some((running.piece.ticket, low))
    }

    /// Gives back what has not begun of a batch, or the larger half of it: from which item on, and the running
    /// batch's new end. `None`: there is nothing to give.
    pub(crate) fn recall(
        &mut self,
        ticket: u64,
        half: bool,
        now: Nanos,
        items: &Items,
    ) -> Option<(u32, Option<Nanos>)> {
        if let Some(at) = self.waiting.iter().position(|piece| piece.ticket == ticket) {
            self.waiting.remove(at);
            return Some((0, None));
        }
        let (running, begun) = self.begun(now, items)?;
        if running != ticket {
            return None;
        }
        let running = self.running.as_mut()?;
        // Items are claimed in chunks.
        let chunk = (running.piece.items / 64).clamp(1, 64);
        let claimed = (begun.div_ceil(chunk) * chunk).min(running.limit);
        let kept = if half { claimed + (running.limit - claimed) / 2 } else { claimed };
        if kept >= running.limit {
            return None;
        }
        running.limit = kept;
        self.version += 1;
        Some((kept, self.end(items)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn piece(ticket: u64, first: u64, items: u32) -> Piece {
        Piece { ticket, batch: ticket, first, items }
    }

    #[test]
    fn half_of_what_has_not_begun_is_given_back_and_the_end_comes_sooner() {
        let items = Items::of(&[1.0; 20], Duration::from_nanos(100));
        let mut worker = Worker::default();
        assert_eq!(worker.take(piece(1, 0, 10), 0, 0, &items), Some(1000));
        assert_eq!(worker.take(piece(2, 10, 10), 0, 0, &items), None);
        // At 250 ns the third item runs: of the other seven, four go.
        assert_eq!(worker.begun(250, &items), Some((1, 3)));
        assert_eq!(worker.recall(1, true, 250, &items), Some((6, Some(600))));
        assert_eq!(worker.recall(2, false, 250, &items), Some((0, None)));
        assert_eq!(worker.recall(2, false, 250, &items), None);
        assert_eq!(worker.finish(&items), Some((piece(1, 0, 6), 600)));
        assert_eq!(worker.begin(600, 0, &items), None);
    }
}
