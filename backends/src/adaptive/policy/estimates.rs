//! What is out and what has come of it, on each side. Fed by events; the forecasts read it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::adaptive::policy::event::Side;

/// A mean that leans on the later half of what it has seen: steady where nothing changes, and not deaf where it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mean {
    sum: f64,
    weight: f64,
    seen: f64,
}

/// However little was seen, so much of it counts in full.
const LEAST: f64 = 32.0;

impl Mean {
    /// `count` values came to `sum`.
    pub(crate) fn add(&mut self, sum: f64, count: f64) {
        self.seen += count;
        let most = (self.seen / 2.0).max(LEAST);
        let kept = if self.weight > most { most / self.weight } else { 1.0 };
        self.sum = self.sum * kept + sum;
        self.weight = self.weight * kept + count;
    }

    /// The mean, if anything was seen.
    pub(crate) fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    /// Values seen.
    pub(crate) fn seen(&self) -> f64 {
        self.seen
    }
}

/// A batch that is out, on one side or on both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SentBatch {
    /// Items that each side still owes.
    pub(crate) items: [u32; 2],
    /// Items that each side has answered while the other has the batch, too: they count when one has answered all.
    parts: [u32; 2],
    pub(crate) bytes: u64,
    /// When each side got it.
    pub(crate) sent: [Option<f64>; 2],
    /// The service had a worker free for it when it was sent there.
    pub(crate) direct: bool,
    /// It was done a second time, or that was tried.
    pub(crate) repeated: bool,
}

impl SentBatch {
    pub(crate) fn on(&self, side: Side) -> bool {
        self.items[side as usize] > 0
    }
}

/// One side's account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SideStats {
    pub(crate) workers: f64,
    /// Seconds that a worker takes for an item.
    pub(crate) item: Mean,
    /// Bytes of a result.
    pub(crate) result: Mean,
    /// Out: batches, items, bytes; repeats included.
    pub(crate) batches: usize,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
    pub(crate) answered: u64,
    /// Batches that came back unanswered since the last answer.
    pub(crate) failures: u32,
    /// Batches in the order in which they were sent; those that are back are taken out when they are met.
    order: VecDeque<u64>,
    /// Items answered lately, and the seconds in which; older ones weigh less.
    lately: f64,
    lately_items: f64,
    /// When the first batch went there.
    pub(crate) begun: Option<f64>,
    /// When something was last heard of it.
    pub(crate) heard: f64,
    /// Least seconds from sending a batch to its answer, beside the work.
    pub(crate) way: Option<f64>,
}

impl SideStats {
    /// Items a second that it answers lately, once that is more than chance.
    pub(crate) fn rate_lately(&self) -> Option<f64> {
        (self.lately > 0.0 && self.lately_items >= 4.0).then(|| self.lately_items / self.lately)
    }

    /// Items were answered. What was heard before the first answer is no pace.
    fn pace(&mut self, now: f64, items: f64) {
        let since = (now - self.heard).max(0.0);
        if self.answered > 0 {
            let each = self.item.get().unwrap_or(0.0) * self.items as f64 / self.batches.max(1) as f64;
            let memory = 2.0 * (self.way.unwrap_or(0.0) + each).max(1e-3);
            let kept = (-since / memory).exp();
            self.lately = self.lately * kept + since;
            self.lately_items = self.lately_items * kept + items;
        }
        self.heard = now;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.batches as f64 >= self.workers
    }
}

/// Both sides' accounts, and the batches that are out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimates {
    pub(crate) sides: [SideStats; 2],
    flights: BTreeMap<u64, SentBatch>,
    /// Items that were handed in at least once.
    pub(crate) pulled: u64,
    /// Bytes of an item.
    pub(crate) item_bytes: Mean,
    /// Seconds of an item as the host's adapter reckons them: each answer moves the mean halfway.
    pub(crate) latest: Option<f64>,
    /// Items that are answered.
    pub(crate) done: u64,
    /// Items that are out with both.
    both: u64,
}

impl Estimates {
    pub(crate) fn side(&self, side: Side) -> &SideStats {
        &self.sides[side as usize]
    }

    pub(crate) fn flight(&self, batch: u64) -> Option<&SentBatch> {
        self.flights.get(&batch)
    }

    pub(crate) fn flight_mut(&mut self, batch: u64) -> Option<&mut SentBatch> {
        self.flights.get_mut(&batch)
    }

    /// Items that were pulled, and are neither answered nor out: they came back.
    pub(crate) fn home(&self) -> u64 {
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
        let flight = self.flights.entry(batch).or_insert(empty);
        flight.repeated |= flight.on(side.other());
        flight.sent[at] = Some(now);
        flight.items[at] += items;
        if flight.on(side.other()) {
            self.both += u64::from(items);
        }
        let account = &mut self.sides[at];
        account.begun = account.begun.or(Some(now));
        flight.direct = side == Side::Cloud && !account.is_full();
        if account.batches == 0 {
            account.heard = now;
        }
        account.batches += 1;
        account.items += u64::from(items);
        account.bytes += bytes;
        account.order.push_back(batch);
    }

    pub(crate) fn answered(&mut self, now: f64, batch: u64, side: Side, items: u32, wall: f64, bytes: u64) {
        let each = wall / f64::from(items.max(1));
        self.latest = Some(self.latest.map_or(each, |latest| f64::midpoint(latest, each)));
        let account = &mut self.sides[side as usize];
        account.item.add(wall, f64::from(items));
        account.result.add(bytes as f64, f64::from(items));
        account.pace(now, f64::from(items));
        account.answered += u64::from(items);
        account.failures = 0;
        self.done += self.counting(batch, side, items);
        self.take_back(batch, side, items);
    }

    /// How many more items are answered with these of a side: those of a batch that both have count once.
    fn counting(&mut self, batch: u64, side: Side, items: u32) -> u64 {
        let raced = self.flights.get_mut(&batch).filter(|flight| flight.on(side.other()));
        let Some(flight) = raced else { return u64::from(items) };
        let at = side as usize;
        flight.parts[at] += items;
        match flight.items[at] > items {
            true => 0,
            false => u64::from(std::mem::take(&mut flight.parts[at])),
        }
    }

    pub(crate) fn back(&mut self, batch: u64, side: Side, items: u32, lost: bool) {
        self.sides[side as usize].failures += u32::from(lost);
        if let Some(flight) = self.flights.get_mut(&batch).filter(|_| lost) {
            // The other side goes on alone, and may be helped again.
            flight.repeated = false;
            if flight.on(side.other()) {
                self.sides[side.other() as usize].order.push_back(batch);
            }
        }
        self.take_back(batch, side, items);
        // The other one goes on alone, and what it has answered counts.
        if let Some(flight) = self.flights.get_mut(&batch).filter(|flight| !flight.on(side)) {
            let parts = std::mem::take(&mut flight.parts);
            self.done += u64::from(parts[side.other() as usize]);
        }
    }

    fn take_back(&mut self, batch: u64, side: Side, items: u32) {
        let Some(flight) = self.flights.get_mut(&batch) else { return };
        let at = side as usize;
        let before = flight.items[at];
        let items = items.min(before);
        if flight.on(side.other()) {
            self.both -= u64::from(items).min(self.both);
        }
        flight.items[at] -= items;
        let account = &mut self.sides[at];
        account.items -= u64::from(items);
        if before > 0 && flight.items[at] == 0 {
            account.batches -= 1;
            account.bytes -= flight.bytes;
        }
        if !flight.on(Side::Local) && !flight.on(Side::Cloud) {
            self.flights.remove(&batch);
        }
    }

    /// The batch of the earliest items, of those that are with a side alone and were not tried twice.
    pub(super) fn earliest(&self, side: Side) -> Option<u64> {
        let out = |flight: &SentBatch| flight.on(side) && !flight.on(side.other()) && !flight.repeated;
        self.flights.iter().find(|(_, flight)| out(flight)).map(|(batch, _)| *batch)
    }

    /// The batch that a side has had longest, and the one that it got last, of those that are with it alone and were not
    /// tried twice.
    pub(crate) fn ends(&mut self, side: Side) -> [Option<u64>; 2] {
        let flights = &self.flights;
        let order = &mut self.sides[side as usize].order;
        let out = |batch: &u64| {
            flights
                .get(batch)
                .is_some_and(|flight| flight.on(side) && !flight.on(side.other()) && !flight.repeated)
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
