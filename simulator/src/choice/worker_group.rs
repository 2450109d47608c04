//! Workers with one queue: those of this machine, or the service's. Whoever is free takes the first batch; where none waits,
//! half of what another of its machine has not begun. Driven by `simulation`, which brings the time.

use std::collections::{BTreeSet, VecDeque};

use crate::clock::Nanos;
use crate::shapes::Items;
use crate::worker::Piece;

/// Workers of one machine, which share what they have not begun.
const MACHINE: usize = 64;
/// Less than this is not worth moving.
const WORTH: Nanos = 500_000;
/// An item that nobody waits for may block a worker for so long, which is then ended, and another started in its place.
const ORPHAN: Nanos = 100_000_000;
const START: Nanos = 2_000_000;

#[derive(Clone, Copy, Debug)]
struct Running {
    piece: Piece,
    limit: u32,
    since: Nanos,
}

#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    running: Option<Running>,
    version: u32,
}

/// A worker began something, or what it runs now ends sooner: it will be through at that time, if it is still that version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) at: Nanos,
    pub(crate) worker: usize,
    pub(crate) version: u32,
}

#[derive(Debug)]
pub(crate) struct WorkerGroup {
    workers: Vec<Worker>,
    idle: BTreeSet<usize>,
    pending: VecDeque<Piece>,
    /// Time of an item here over its own.
    slowness: f64,
    /// What a worker spends on a piece beside its items.
    overhead: Nanos,
    /// Message there and back, for what is moved.
    moving: Nanos,
    /// Time spent on items.
    pub(crate) spent: Nanos,
    /// Time spent on what was cancelled.
    pub(crate) vain: Nanos,
}

impl WorkerGroup {
    pub(crate) fn new(workers: usize, slowness: f64, overhead: Nanos, moving: Nanos) -> Self {
        WorkerGroup {
            workers: vec![Worker::default(); workers],
            idle: BTreeSet::new(),
            pending: VecDeque::new(),
            slowness,
            overhead,
            moving,
            spent: 0,
            vain: 0,
        }
    }

    fn time(&self, items: &Items, first: u64, end: u64) -> Nanos {
        items.slowed(first, end, self.slowness)
    }

    /// When a piece that was begun then is through, or ends its worker.
    fn through(&self, items: &Items, since: Nanos, first: u64, end: u64) -> Nanos {
        let end = items.first_fault(first, end).map_or(end, |(item, _)| item + 1);
        since + self.time(items, first, end)
    }

    /// A worker is there.
    pub(crate) fn arrive(&mut self, worker: usize, now: Nanos, items: &Items) -> Vec<Ends> {
        self.next(worker, now, items)
    }

    pub(crate) fn submit(&mut self, piece: Piece, now: Nanos, items: &Items) -> Option<Ends> {
        let Some(worker) = self.idle.pop_first() else {
            self.pending.push_back(piece);
            return None;
        };
        Some(self.begin(worker, piece, now, items))
    }

    fn begin(&mut self, worker: usize, piece: Piece, now: Nanos, items: &Items) -> Ends {
        let since = now + self.overhead;
        let at = self.through(items, since, piece.first, piece.end());
        let slot = &mut self.workers[worker];
        slot.running = Some(Running { piece, limit: piece.items, since });
        slot.version += 1;
        Ends { at, worker, version: slot.version }
    }

    /// What a worker has done, if that version of it still holds, and the item that has ended it, if one has.
    pub(crate) fn finish(
        &mut self,
        worker: usize,
        version: u32,
        items: &Items,
    ) -> Option<(Piece, Nanos, Option<u64>)> {
        let slot = &mut self.workers[worker];
        if slot.version != version {
            return None;
        }
        let Running { piece, limit, .. } = slot.running.take()?;
        let done = Piece { items: limit, ..piece };
        let lethal = items.first_fault(done.first, done.end()).map(|(item, _)| item);
        let end = lethal.map_or(done.end(), |item| item + 1);
        let wall = self.time(items, done.first, end);
        self.spent += wall;
        Some((done, wall, lethal))
    }

    /// A worker without work takes what waits, or a half of what another has not begun.
    pub(crate) fn next(&mut self, worker: usize, now: Nanos, items: &Items) -> Vec<Ends> {
        if let Some(piece) = self.pending.pop_front() {
            return vec![self.begin(worker, piece, now, items)];
        }
        let from = worker / MACHINE * MACHINE;
        let to = (from + MACHINE).min(self.workers.len());
        let mut best: Option<(Nanos, usize, u32)> = None;
        for other in from..to {
            let Some(running) = self.workers[other].running else { continue };
            if running.limit < 2 {
                continue;
            }
            let begun = self.begun(&running, now, items);
            if begun >= running.limit {
                continue;
            }
            let rest = self.time(
                items,
                running.piece.first + u64::from(begun),
                running.piece.first + u64::from(running.limit),
            );
            if rest > WORTH.max(2 * self.moving) && best.is_none_or(|(most, ..)| rest > most) {
                best = Some((rest, other, begun));
            }
        }
        let Some((_, other, begun)) = best else {
            self.idle.insert(worker);
            return Vec::new();
        };
        let slot = &mut self.workers[other];
        let running = slot.running.as_mut().expect("it was just seen");
        let kept = begun + (running.limit - begun) / 2;
        let moved = Piece {
            first: running.piece.first + u64::from(kept),
            items: running.limit - kept,
            ..running.piece
        };
        running.limit = kept;
        slot.version += 1;
        let (since, first, version) = (running.since, running.piece.first, slot.version);
        let at = self.through(items, since, first, first + u64::from(kept));
        let shorter = Ends { at: at.max(now), worker: other, version };
        let began = self.begin(worker, moved, now + self.moving, items);
        vec![shorter, began]
    }

    /// How many items of it have begun.
    fn begun(&self, running: &Running, now: Nanos, items: &Items) -> u32 {
        let first = running.piece.first;
        let spent = now.saturating_sub(running.since);
        let (mut low, mut high) = (1, running.limit.max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time(items, first, first + u64::from(middle)) <= spent {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Nobody waits for a batch any more: what waits of it goes, and whoever runs it lets go of what it has not begun, and is
    /// ended where the item that it runs is long.
    pub(crate) fn cancel(&mut self, batch: u64, now: Nanos, items: &Items) -> Vec<Ends> {
        self.pending.retain(|piece| piece.batch != batch);
        let mut started = Vec::new();
        for worker in 0..self.workers.len() {
            let Some(running) = self.workers[worker].running else { continue };
            if running.piece.batch != batch {
                continue;
            }
            let begun = self.begun(&running, now, items).min(running.limit);
            let end = running.piece.first + u64::from(begun);
            let ended = (running.since + ORPHAN).max(now) + START;
            let at = (running.since + self.time(items, running.piece.first, end)).max(now).min(ended);
            // Nothing that it ran has an answer.
            self.vain += at.saturating_sub(running.since);
            let slot = &mut self.workers[worker];
            let running = slot.running.as_mut().expect("it was just seen");
            running.limit = begun;
            slot.version += 1;
            started.push(Ends { at, worker, version: slot.version });
        }
        started
    }
}
