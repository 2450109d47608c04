//! What was read ahead, counted as `src/map/window.rs` counts it: order, bytes, and segments that wait.
//! The adapter's side of the engine asks it before it reads.

use std::collections::{BTreeMap, HashMap};

/// What a segment or a batch costs beside its payload.
const OVERHEAD: f64 = 256.0;

#[derive(Debug)]
pub(crate) struct Window {
    /// Index of the first item that was not handed to the consumer yet.
    pub(crate) head: u64,
    /// Answered stretches: first item to end and bytes.
    ready: BTreeMap<u64, (u64, f64)>,
    /// Where the stretch of segments that could be taken now ends, and how many those are.
    deliverable: (u64, usize),
    budget: f64,
    held_bytes: f64,
    consumed: f64,
    charges: HashMap<u64, (u32, f64)>,
    charged: f64,
    /// The most it ever held: bytes, segments.
    pub(crate) peak: (f64, usize),
    /// Answers to items that were answered before.
    pub(crate) doubled: u64,
}

impl Window {
    pub(crate) fn new(budget: usize) -> Self {
        Window {
            head: 0,
            ready: BTreeMap::new(),
            deliverable: (0, 0),
            budget: budget as f64,
            held_bytes: 0.0,
            consumed: 0.0,
            charges: HashMap::new(),
            charged: 0.0,
            peak: (0.0, 0),
            doubled: 0,
        }
    }

    pub(crate) fn admits(&self, first: u64, segments: usize, bytes: f64) -> bool {
        first == self.head
            || (self.ready.len() < segments && self.held_bytes + self.charged + bytes <= self.budget)
    }

    pub(crate) fn deliverable(&self) -> usize {
        self.deliverable.1
    }

    pub(crate) fn charge(&mut self, batch: u64, items: u32, bytes_in: f64, bytes_out: f64) {
        let each = bytes_in + OVERHEAD / f64::from(items) + bytes_out;
        self.charges.insert(batch, (items, each));
        self.charged += f64::from(items) * each;
        self.note();
    }

    pub(crate) fn discharge(&mut self, batch: u64, items: u32) {
        let Some(charge) = self.charges.get_mut(&batch) else { return };
        charge.0 -= items;
        self.charged -= f64::from(items) * charge.1;
        if charge.0 == 0 {
            self.charges.remove(&batch);
        }
        if self.charges.is_empty() {
            self.charged = 0.0;
        }
    }

    pub(crate) fn insert(&mut self, first: u64, items: u32, bytes: f64) {
        let end = first + u64::from(items);
        self.held_bytes += bytes + OVERHEAD;
        let before = self.ready.range(..end).next_back().is_some_and(|(_, (until, _))| *until > first);
        if first < self.head || before {
            self.doubled += u64::from(items);
            return;
        }
        self.ready.insert(first, (end, bytes + OVERHEAD));
        while let Some((end, _)) = self.ready.get(&self.deliverable.0) {
            self.deliverable = (*end, self.deliverable.1 + 1);
        }
        self.note();
    }

    /// Items of the next segment, which the consumer takes; it is done with the one before.
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.held_bytes -= std::mem::take(&mut self.consumed);
        let entry = self.ready.first_entry()?;
        if *entry.key() != self.head {
            return None;
        }
        let (first, (end, bytes)) = entry.remove_entry();
        self.consumed = bytes;
        self.head = end;
        self.deliverable.1 -= 1;
        Some(end - first)
    }

    fn note(&mut self) {
        self.peak = (self.peak.0.max(self.held_bytes + self.charged), self.peak.1.max(self.ready.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_out_in_order_and_an_answer_that_overlaps_another_is_counted() {
        let mut window = Window::new(1000);
        window.insert(2, 2, 8.0);
        assert_eq!((window.deliverable(), window.take()), (0, None));
        window.insert(0, 2, 8.0);
        assert_eq!(window.deliverable(), 2);
        assert_eq!((window.take(), window.take(), window.head), (Some(2), Some(2), 4));
        window.insert(3, 1, 8.0);
        window.insert(6, 4, 8.0);
        window.insert(7, 1, 8.0);
        assert_eq!(window.doubled, 2);
    }

    #[test]
    fn the_head_is_admitted_whatever_the_budget() {
        let mut window = Window::new(1000);
        window.charge(1, 10, 90.0, 0.0);
        assert!(window.admits(0, 5, 1e9) && !window.admits(10, 5, 1.0));
        window.discharge(1, 10);
        assert!(window.admits(10, 5, 1.0));
    }
}
