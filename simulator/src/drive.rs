//! The adapter's side: when to read, and how much. The counterpart of `src/map/engine/`; the size of each batch is
//! decided by the real rule.

use std::time::Duration;

use fastmap_backends::Targets;
use fastmap_backends::batch_sizing::Observed;

use crate::clock::Nanos;
use crate::settings::{Mean, Settings};
use crate::window::Window;

#[derive(Debug)]
pub(crate) struct Drive {
    settings: Settings,
    workers: usize,
    count: u64,
    /// Bytes of one item, and of one result.
    bytes: (f64, f64),
    pub(crate) window: Window,
    /// Items pulled from the input.
    pulled: u64,
    pub(crate) batches: u64,
    last: u32,
    item_time: Option<f64>,
    /// Items behind `item_time`, of those that still weigh.
    weight: f64,
}

impl Drive {
    pub(crate) fn new(settings: &Settings, workers: usize, count: u64, bytes: (usize, usize)) -> Self {
        Drive {
            settings: *settings,
            workers,
            count,
            bytes: (bytes.0 as f64, bytes.1 as f64),
            window: Window::new(settings.read_ahead),
            pulled: 0,
            batches: 0,
            last: 0,
            item_time: None,
            weight: 0.0,
        }
    }

    /// The next batches are for so many workers, and a place that wants this of them. What the batch before had is told in
    /// terms of what its place wanted.
    pub(crate) fn aim(&mut self, targets: Targets, workers: usize) {
        let times = targets.work.div_duration_f64(self.settings.targets.work);
        self.last = (f64::from(self.last) * times).ceil() as u32;
        self.settings.targets = targets;
        self.workers = workers;
    }

    /// Items that were not pulled yet.
    pub(crate) fn left(&self) -> u64 {
        self.count - self.pulled
    }

    /// Pulls the next batch, if there is a place and the budget admits it: its number, first item and items.
    pub(crate) fn pull(&mut self, slots: usize, outstanding: usize) -> Option<(u64, u64, u32)> {
        let remaining = self.count - self.pulled;
        if remaining == 0 || outstanding >= slots || self.window.deliverable() > slots {
            return None;
        }
        let (bytes_in, bytes_out) = (
            if self.batches > 0 { self.bytes.0 } else { 0.0 },
            if self.item_time.is_some() { self.bytes.1 } else { 0.0 },
        );
        let observed = Observed {
            workers: self.workers,
            remaining: Some(remaining),
            item_time: self.item_time.map(|time| Duration::from_nanos(time as u64)),
            item_bytes: bytes_in.max(bytes_out),
            last: self.last,
        };
        let items = self.settings.rule.batch_items(&observed, &self.settings.targets);
        let segments = self.settings.segments.least.max(self.settings.segments.of_slots * slots);
        if !self.window.admits(self.pulled, segments, f64::from(items) * (bytes_in + bytes_out)) {
            return None;
        }
        // A batch is closed by the item that fills its bytes.
        let fill = (self.settings.targets.bytes as f64 / self.bytes.0.max(1e-3)).ceil() as u32;
        let items = items.min(fill).min(u32::try_from(remaining).unwrap_or(u32::MAX));
        let first = self.pulled;
        self.pulled += u64::from(items);
        self.batches += 1;
        self.last = items;
        self.window.charge(self.batches, items, self.bytes.0, bytes_out);
        Some((self.batches, first, items))
    }

    /// Items of a batch were answered.
    pub(crate) fn answered(&mut self, batch: u64, first: u64, items: u32, wall: Nanos) {
        self.window.discharge(batch, items);
        let each = wall as f64 / f64::from(items);
        self.item_time = Some(match (self.item_time, self.settings.mean) {
            (None, _) => {
                self.weight = f64::from(items);
                each
            }
            (Some(old), Mean::Halving) => f64::midpoint(old, each),
            (Some(old), Mean::ByItems { batches }) => {
                let before = self.weight.min(batches * f64::from(items.max(self.last)));
                self.weight = before + f64::from(items);
                (old * before + wall as f64) / self.weight
            }
        });
        self.window.insert(first, items, f64::from(items) * self.bytes.1);
    }

    /// Items of a batch are back, or lost: a part of them goes out under another name.
    pub(crate) fn on_returned(&mut self, batch: u64, items: u32) {
        self.window.discharge(batch, items);
    }

    /// A name for items that go out once more, which are charged by it.
    pub(crate) fn name(&mut self, items: u32) -> u64 {
        self.batches += 1;
        let bytes_out = if self.item_time.is_some() { self.bytes.1 } else { 0.0 };
        self.window.charge(self.batches, items, self.bytes.0, bytes_out);
        self.batches
    }

    /// An item is answered by an error.
    pub(crate) fn failed(&mut self, index: u64) {
        self.window.insert(index, 1, 0.0);
    }

    /// Everything was handed to the consumer.
    pub(crate) fn complete(&self) -> bool {
        self.window.head == self.count
    }
}
