//! Order and budget of what was read ahead: result chunks that wait for earlier ones, and the bytes that a
//! map holds. The engine inserts answers and asks whether more may be read; the adapter takes result chunks
//! out, in order.

use std::collections::{BTreeMap, HashMap};

use fastmap_backends::{Batch, BatchId};

use crate::error::ErrorKind;
use crate::map::results::ResultChunk;

/// Result chunks that may wait for one slow item: at least this number, and this number for each place of the
/// backend. Their bytes are bounded as well, and reach their bound first unless results are tiny. (Simulated:
/// 10,000 workers need more than 4,096.)
const SEGMENTS: usize = 4096;
const SEGMENTS_A_PLACE: usize = 4;

/// What a result chunk or a batch costs beside its payload: its place in the maps here and its own fields.
const OVERHEAD: f64 = 256.0;

/// Order and budget of one map.
#[derive(Debug)]
pub(crate) struct ReorderBuffer {
    /// Index of the first item that was not handed to the consumer yet.
    head: u64,
    /// Items that were handed to the consumer.
    taken: u64,
    ready: BTreeMap<u64, ResultChunk>,
    /// How many may wait.
    most: usize,
    /// Hands result chunks out as they come.
    unordered: bool,
    budget: f64,
    /// Bytes of `ready` and of the result chunk that is being consumed.
    held_bytes: f64,
    consumed: f64,
    /// Bytes of batches in flight, and of the results that are expected of them.
    charges: HashMap<BatchId, Charge>,
    charged: f64,
}

#[derive(Debug)]
struct Charge {
    items: u32,
    each: f64,
}

impl ReorderBuffer {
    pub(crate) fn new(budget: usize) -> Self {
        ReorderBuffer {
            head: 0,
            taken: 0,
            ready: BTreeMap::new(),
            most: SEGMENTS,
            unordered: false,
            budget: budget as f64,
            held_bytes: 0.0,
            consumed: 0.0,
            charges: HashMap::new(),
            charged: 0.0,
        }
    }

    pub(crate) fn set_unordered(&mut self) {
        self.unordered = true;
    }

    /// The backend has `places` places for batches.
    pub(crate) fn set_places(&mut self, places: usize) {
        self.most = SEGMENTS.max(SEGMENTS_A_PLACE * places);
    }

    /// All items before `index` are with the consumer, and nothing is held.
    pub(crate) fn resume_at(&mut self, index: u64) {
        self.head = index;
        self.taken = index;
    }

    /// Items handed to the consumer, with their whole result chunks.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether nothing is held at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Whether a batch of `bytes` that begins at `first` may be sent. The batch that the consumer waits for
    /// always may.
    pub(crate) fn admits(&self, first: u64, bytes: f64) -> bool {
        // Without this a budget could stop a map: all that is held would wait for this batch. Unordered
        // results wait for no batch in particular, so that one batch is always admitted.
        let waited_for =
            first == self.head || (self.unordered && self.charges.is_empty() && self.ready.is_empty());
        waited_for || (self.ready.len() < self.most && self.held_bytes + self.charged + bytes <= self.budget)
    }

    /// Whether the consumer could take a result chunk without waiting.
    pub(crate) fn has_next(&self) -> bool {
        let first = self.ready.first_key_value();
        first.is_some_and(|(first, _)| self.unordered || *first == self.head)
    }

    /// How many result chunks the consumer could take without waiting. If they are many, the consumer is the
    /// slow part, and nothing more need be read for it.
    pub(crate) fn deliverable(&self) -> usize {
        if self.unordered {
            return self.ready.len();
        }
        let mut next = self.head;
        self.ready
            .iter()
            .take_while(|(first, chunk)| {
                let follows = **first == next;
                next = chunk.end();
                follows
            })
            .count()
    }

    /// A batch is sent; each of its items is expected to be answered by `result_bytes` bytes.
    pub(crate) fn charge(&mut self, batch: &Batch, result_bytes: f64) {
        // Results count before they exist: once a batch is sent, they arrive whether or not there is room.
        let each = (batch.payload().len() as f64 + OVERHEAD) / f64::from(batch.items()) + result_bytes;
        // A part that was given back and is sent again has its batch's name: it keeps the charge per item of
        // the first time, or `discharge` would subtract another amount than was added.
        let charge = self.charges.entry(batch.id()).or_insert(Charge { items: 0, each });
        charge.items += batch.items();
        self.charged += f64::from(batch.items()) * charge.each;
    }

    /// Items of a batch are back. Returns whether others of it are still in flight.
    pub(crate) fn discharge(&mut self, batch: BatchId, items: u32) -> bool {
        let Some(charge) = self.charges.get_mut(&batch) else { return false };
        // A backend that reports more items than it has must not make the sum too small.
        let items = items.min(charge.items);
        charge.items -= items;
        self.charged -= f64::from(items) * charge.each;
        let more = charge.items > 0;
        if !more {
            self.charges.remove(&batch);
        }
        // Differences of floats leave a remainder, which would add up over a long map.
        if self.charges.is_empty() {
            self.charged = 0.0;
        }
        more
    }

    /// Answers to be delivered when it is their turn.
    pub(crate) fn insert(&mut self, chunk: ResultChunk) {
        self.held_bytes += chunk.bytes() as f64 + OVERHEAD;
        self.ready.insert(chunk.first(), chunk);
    }

    /// Nothing more arrives: each missing item before an answer is answered by an error, so that answers keep
    /// their places.
    pub(crate) fn fill_gaps(&mut self, kind: ErrorKind) {
        if self.unordered {
            // Unordered results carry their index, so that a gap moves none of them.
            return;
        }
        let mut next = self.head;
        let mut gaps = Vec::new();
        // Only gaps before a chunk: what follows the last one is answered by the map's own error.
        for (first, chunk) in &self.ready {
            while next < *first {
                let items = u32::try_from(first - next).unwrap_or(u32::MAX);
                gaps.push(ResultChunk::gap(next, items, kind));
                next += u64::from(items);
            }
            next = chunk.end();
        }
        for gap in gaps {
            self.insert(gap);
        }
    }

    /// The next result chunk. The consumer is done with the one before.
    pub(crate) fn take(&mut self) -> Option<ResultChunk> {
        // A chunk is in memory, and counts, until the consumer asks for the one after it.
        self.held_bytes -= std::mem::take(&mut self.consumed);
        let entry = self.ready.first_entry()?;
        if *entry.key() != self.head && !self.unordered {
            return None;
        }
        let chunk = entry.remove();
        self.consumed = chunk.bytes() as f64 + OVERHEAD;
        self.head = chunk.end();
        self.taken += chunk.end() - chunk.first();
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use fastmap_backends::{BatchBuilder, JobId};

    use super::*;
    use crate::error::Error;
    use crate::map::results::Answer;

    fn chunk(first: u64) -> ResultChunk {
        ResultChunk::failed(first, Error::new(ErrorKind::Panic, "x"))
    }

    fn batch(id: u64, bytes: usize) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend(vec![0; bytes]);
        builder.added(bytes as u32);
        builder.finish(JobId(1), BatchId(id), 0, 0)
    }

    #[test]
    fn segments_come_out_in_order_whatever_the_order_they_came_in() {
        let mut window = ReorderBuffer::new(1 << 20);
        window.insert(chunk(1));
        assert!(window.take().is_none() && !window.has_next());
        assert_eq!(window.deliverable(), 0);
        window.insert(chunk(0));
        window.insert(chunk(3));
        assert_eq!(window.deliverable(), 2);
        assert_eq!(window.take().map(|chunk| chunk.first()), Some(0));
        assert_eq!(window.take().map(|chunk| chunk.first()), Some(1));
        assert!(window.take().is_none());
        assert_eq!(window.taken(), 2);
    }

    #[test]
    fn a_gap_is_answered_by_an_error_for_each_item_and_what_is_behind_it_keeps_its_place() {
        let mut window = ReorderBuffer::new(1 << 20);
        for first in [0, 3, 7] {
            window.insert(chunk(first));
        }
        window.fill_gaps(ErrorKind::OutOfCredits);
        let mut failures = Vec::new();
        while let Some(mut chunk) = window.take() {
            chunk.allow(10);
            assert!(chunk.next_fast(None).is_none());
            while let Some((index, Answer::Failed(error))) = chunk.next() {
                assert_eq!(error.index(), usize::try_from(index).ok());
                failures.push((index, error.kind() == ErrorKind::OutOfCredits));
            }
        }
        assert_eq!(failures, [0, 1, 2, 3, 4, 5, 6, 7].map(|index| (index, ![0, 3, 7].contains(&index))));
        assert!(window.is_empty());
    }

    #[test]
    fn the_head_is_admitted_whatever_the_budget() {
        let mut window = ReorderBuffer::new(1000);
        assert!(window.admits(0, 1e9));
        assert!(!window.admits(1, 1e9));
        window.charge(&batch(1, 600), 0.0);
        assert!(!window.admits(700, 600.0));
        assert!(window.admits(0, 600.0));
        window.discharge(BatchId(1), 600);
        assert!(window.admits(700, 600.0));
    }

    #[test]
    fn what_is_charged_in_parts_is_discharged_to_nothing() {
        let mut window = ReorderBuffer::new(1000);
        window.charge(&batch(1, 10), 3.5);
        window.discharge(BatchId(1), 4);
        window.discharge(BatchId(1), 6);
        window.discharge(BatchId(1), 6);
        assert!(window.charged.abs() < 1e-9);
    }
}
