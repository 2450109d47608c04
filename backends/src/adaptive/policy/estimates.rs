//! Statistics of batches, in flight and answered, on each side. Updated by events, read by the forecasts.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::adaptive::policy::event::Side;

/// Mean weighted towards the later half of the values: steady if nothing changes, responsive if something
/// does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mean {
    sum: f64,
    weight: f64,
    seen: f64,
}

/// At least this many values count in full.
const MIN_WEIGHT: f64 = 32.0;

impl Mean {
    /// Adds `count` values with this `sum`.
    pub(crate) fn add(&mut self, sum: f64, count: f64) {
        self.seen += count;
        let max_weight = (self.seen / 2.0).max(MIN_WEIGHT);
        let factor = if self.weight > max_weight { max_weight / self.weight } else { 1.0 };
        self.sum = self.sum * factor + sum;
        self.weight = self.weight * factor + count;
    }

    /// The mean; `None` without values.
    pub(crate) fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Number of values.
    pub(crate) fn seen(&self) -> f64 {
        self.seen
    }
}

/// A batch in flight, on one side or on both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SentBatch {
    /// Unanswered items on each side.
    pub(crate) items: [u32; 2],
    /// Items answered by each side while the other also has the batch; they count when one side has answered
    /// all.
    parts: [u32; 2],
    pub(crate) bytes: u64,
    /// Time of sending to each side.
    pub(crate) sent: [Option<f64>; 2],
    /// Whether the service had an idle worker when the batch was sent there.
    pub(crate) direct: bool,
    /// Whether it was repeated, or a repetition was tried.
    pub(crate) repeated: bool,
}

impl SentBatch {
    pub(crate) fn on(&self, side: Side) -> bool {
        self.items[side as usize] > 0
    }
}

/// Statistics of one side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SideStats {
    pub(crate) workers: f64,
    /// Seconds per item of a worker.
    pub(crate) item: Mean,
    /// Bytes per result.
    pub(crate) result: Mean,
    /// In flight: batches, items, bytes; repeats included.
    pub(crate) batches: usize,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
    pub(crate) answered: u64,
    /// Batches returned unanswered since the last answer.
    pub(crate) failures: u32,
    /// Batches in the order of sending; those no longer in flight are removed when they are met.
    order: VecDeque<u64>,
    /// Recently answered items, and the seconds for them; older ones weigh less.
    lately: f64,
    lately_items: f64,
    /// Time of the first batch.
    pub(crate) begun: Option<f64>,
    /// Time of the last answer, or of the first batch after an idle time.
    pub(crate) heard: f64,
    /// Minimum seconds from sending a batch to its answer, without the work.
    pub(crate) way: Option<f64>,
}

impl SideStats {
    /// Recent items per second, once they are statistically meaningful.
    pub(crate) fn recent_rate(&self) -> Option<f64> {
        (self.lately > 0.0 && self.lately_items >= 4.0).then(|| self.lately_items / self.lately)
    }

    /// Updates the recent rate. The time before the first answer is not part of it.
    fn update_rate(&mut self, now: f64, items: f64) {
        let since = (now - self.heard).max(0.0);
        if self.answered > 0 {
            let each = self.item.get().unwrap_or(0.0) * self.items as f64 / self.batches.max(1) as f64;
            let memory = 2.0 * (self.way.unwrap_or(0.0) + each).max(1e-3);
            let factor = (-since / memory).exp();
            self.lately = self.lately * factor + since;
            self.lately_items = self.lately_items * factor + items;
        }
        self.heard = now;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.batches as f64 >= self.workers
    }
}

/// Statistics of both sides, and the batches in flight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimates {
    pub(crate) sides: [SideStats; 2],
    flights: BTreeMap<u64, SentBatch>,
    /// Items that were submitted at least once.
    pub(crate) pulled: u64,
    /// Bytes per item.
    pub(crate) item_bytes: Mean,
    /// Seconds per item as estimated by the host's adapter: each answer moves the mean halfway.
    pub(crate) latest: Option<f64>,
    /// Answered items.
    pub(crate) done: u64,
    /// Items in flight on both sides.
    both: u64,
}

impl Estimates {
    pub(crate) fn side(&self, side: Side) -> &SideStats {
        &self.sides[side as usize]
    }

    pub(crate) fn sent_batch(&self, batch: u64) -> Option<&SentBatch> {
        self.flights.get(&batch)
    }

    pub(crate) fn sent_batch_mut(&mut self, batch: u64) -> Option<&mut SentBatch> {
        self.flights.get_mut(&batch)
    }

    /// Items that were pulled, and are neither answered nor in flight: they were returned.
    pub(crate) fn returned(&self) -> u64 {
        let out = self.sides[0].items + self.sides[1].items - self.both;
        self.pulled.saturating_sub(self.done + out)
    }

    pub(crate) fn sent(&mut self, now: f64, batch: u64, side: Side, first: u64, items: u32, bytes: u64) {
        let end = first + u64::from(items);
        if end > self.pulled {
            self.pulled = end;
            self.item_bytes.add(bytes as f64, f64::from(items));
        }
        let at = side as usize;
        let (none, never) = ([0; 2], [None; 2]);
        let empty =
            SentBatch { items: none, parts: none, bytes, sent: never, direct: false, repeated: false };
        let entry = self.flights.entry(batch).or_insert(empty);
        entry.repeated |= entry.on(side.other());
        entry.sent[at] = Some(now);
        entry.items[at] += items;
        if entry.on(side.other()) {
            self.both += u64::from(items);
        }
        let stats = &mut self.sides[at];
        stats.begun = stats.begun.or(Some(now));
        entry.direct = side == Side::Cloud && !stats.is_full();
        if stats.batches == 0 {
            stats.heard = now;
        }
        stats.batches += 1;
        stats.items += u64::from(items);
        stats.bytes += bytes;
        stats.order.push_back(batch);
    }

    pub(crate) fn answered(&mut self, now: f64, batch: u64, side: Side, items: u32, wall: f64, bytes: u64) {
        let each = wall / f64::from(items.max(1));
        self.latest = Some(self.latest.map_or(each, |latest| f64::midpoint(latest, each)));
        let stats = &mut self.sides[side as usize];
        stats.item.add(wall, f64::from(items));
        stats.result.add(bytes as f64, f64::from(items));
        stats.update_rate(now, f64::from(items));
        stats.answered += u64::from(items);
        stats.failures = 0;
        self.done += self.newly_answered(batch, side, items);
        self.remove_items(batch, side, items);
    }

    /// Number of newly answered items: those of a batch on both sides count once.
    fn newly_answered(&mut self, batch: u64, side: Side, items: u32) -> u64 {
        let raced = self.flights.get_mut(&batch).filter(|entry| entry.on(side.other()));
        let Some(entry) = raced else { return u64::from(items) };
        let at = side as usize;
        entry.parts[at] += items;
        match entry.items[at] > items {
            true => 0,
            false => u64::from(std::mem::take(&mut entry.parts[at])),
        }
    }

    pub(crate) fn back(&mut self, batch: u64, side: Side, items: u32, lost: bool) {
        self.sides[side as usize].failures += u32::from(lost);
        if let Some(entry) = self.flights.get_mut(&batch).filter(|_| lost) {
            // The other side continues alone, and may be helped again.
            entry.repeated = false;
            if entry.on(side.other()) {
                self.sides[side.other() as usize].order.push_back(batch);
            }
        }
        self.remove_items(batch, side, items);
        // The other side continues alone, and its answers count.
        if let Some(entry) = self.flights.get_mut(&batch).filter(|entry| !entry.on(side)) {
            let parts = std::mem::take(&mut entry.parts);
            self.done += u64::from(parts[side.other() as usize]);
        }
    }

    fn remove_items(&mut self, batch: u64, side: Side, items: u32) {
        let Some(entry) = self.flights.get_mut(&batch) else { return };
        let at = side as usize;
        let before = entry.items[at];
        let items = items.min(before);
        if entry.on(side.other()) {
            self.both -= u64::from(items).min(self.both);
        }
        entry.items[at] -= items;
        let stats = &mut self.sides[at];
        stats.items -= u64::from(items);
        if before > 0 && entry.items[at] == 0 {
            stats.batches -= 1;
            stats.bytes -= entry.bytes;
        }
        if !entry.on(Side::Local) && !entry.on(Side::Cloud) {
            self.flights.remove(&batch);
        }
    }

    /// The batch with the earliest items, of those on this side only that were not repeated.
    pub(super) fn earliest(&self, side: Side) -> Option<u64> {
        let out = |entry: &SentBatch| entry.on(side) && !entry.on(side.other()) && !entry.repeated;
        self.flights.iter().find(|(_, entry)| out(entry)).map(|(batch, _)| *batch)
    }

    /// The oldest and the newest batch of a side, of those on this side only that were not repeated.
    pub(crate) fn oldest_and_newest(&mut self, side: Side) -> [Option<u64>; 2] {
        let flights = &self.flights;
        let order = &mut self.sides[side as usize].order;
        let out = |batch: &u64| {
            flights
                .get(batch)
                .is_some_and(|entry| entry.on(side) && !entry.on(side.other()) && !entry.repeated)
        };
        while order.front().is_some_and(|batch| !out(batch)) {
            order.pop_front();
        }
        while order.back().is_some_and(|batch| !out(batch)) {
            order.pop_back();
        }
        [order.front().copied(), order.back().copied()]
    }
}
