//! The size of the next batch, from the time and bytes of earlier ones and from the backend's targets.

use std::time::Duration;

use fastmap_backends::batch_sizing::{Observed, batch_items};
use fastmap_backends::{Capacity, Results};

/// Room that is reserved for a batch, as a multiple of the expected bytes: items vary.
const ROOM: f64 = 1.1;

/// What the next batch is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) items: u32,
    pub(crate) bytes: usize,
    /// After this time the items that were pulled are sent, however few they are.
    pub(crate) patience: Duration,
}

/// Moving means of what was observed, the latest batches weighing most.
#[derive(Debug, Default)]
pub(crate) struct BatchPlanner {
    item_time: Option<Duration>,
    /// Bytes of an item; `None` before the first batch.
    input_bytes: Option<f64>,
    /// Bytes of a result.
    result_bytes: f64,
    /// Items of the latest batch, and the work target by which it was sized (`None` before the first).
    latest_items: u32,
    latest_work: Option<Duration>,
}

impl BatchPlanner {
    /// Items that the next batch should have.
    pub(super) fn batch_items(&mut self, capacity: &Capacity, remaining: Option<u64>) -> u32 {
        let work = capacity.targets.work;
        // Two kinds of places may take turns. Batches grow from the latest one's size, so that size is
        // converted to what this kind wants; otherwise each change would start with a batch that is far too
        // small or too large.
        if let Some(latest) = self.latest_work.replace(work)
            && latest != work
            && !latest.is_zero()
        {
            self.latest_items = (f64::from(self.latest_items) * work.div_duration_f64(latest)).ceil() as u32;
        }
        let observed = Observed {
            workers: capacity.workers,
            remaining,
            item_time: self.item_time,
            item_bytes: self.input_bytes().max(self.result_bytes),
            last: self.latest_items,
        };
        batch_items(&observed, &capacity.targets)
    }

    /// The mean wall time of an item, once one was answered.
    pub(crate) fn item_time(&self) -> Option<Duration> {
        self.item_time
    }

    /// Bytes of items and results of a batch.
    pub(super) fn expected_bytes(&self, items: u32) -> f64 {
        f64::from(items) * (self.input_bytes() + self.result_bytes)
    }

    /// Bytes of the results of a batch.
    pub(super) fn expected_results(&self, items: u32) -> f64 {
        f64::from(items) * self.result_bytes
    }

    fn input_bytes(&self) -> f64 {
        self.input_bytes.unwrap_or(0.0)
    }

    /// Bytes of one result.
    pub(super) fn result_bytes(&self) -> f64 {
        self.result_bytes
    }

    /// Bytes to reserve for the items of a batch.
    pub(super) fn input_room(&self, items: u32) -> f64 {
        f64::from(items) * self.input_bytes() * ROOM
    }

    /// A batch was read. `items` is not 0.
    pub(super) fn batch_read(&mut self, items: u32, bytes: usize) {
        let each = bytes as f64 / f64::from(items);
        // The first batch sets the mean, also where the calling thread has measured the time: it encodes
        // nothing and knows no bytes.
        self.input_bytes = Some(self.input_bytes.map_or(each, |old| f64::midpoint(old, each)));
        self.latest_items = items;
    }

    /// Items of a batch were answered.
    pub(super) fn batch_answered(&mut self, items: u32, results: &Results) {
        let each = f64::from(items.max(1));
        let time = results.wall.div_f64(each);
        self.item_time = Some(self.item_time.map_or(time, |old| (old + time) / 2));
        let bytes = results.payload.bytes().len() as f64 / each;
        // 0 means unknown. An average with it would halve the first estimate, and admit too much.
        self.result_bytes =
            if self.result_bytes == 0.0 { bytes } else { f64::midpoint(self.result_bytes, bytes) };
    }

    /// Items of the latest batch.
    pub(crate) fn latest_items(&self) -> u32 {
        self.latest_items
    }

    /// The calling thread has measured an item, so that the first batch need not be a single item.
    pub(crate) fn measured(&mut self, item_seconds: f64) {
        self.item_time = Some(Duration::from_secs_f64(item_seconds));
        // As if 1 ms of work had been sent last: a batch is at most four times as large as the one before.
        self.latest_items = ((1e-3 / item_seconds.max(1e-9)) as u32).max(1);
    }

    /// Lets the next batch grow from at least this size: the latest one was small for a reason that has
    /// passed.
    pub(crate) fn grow_from(&mut self, items: u32) {
        self.latest_items = self.latest_items.max(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastmap_backends::Targets;

    fn capacity(work: Duration) -> Capacity {
        let targets = Targets { work, least: Duration::from_micros(200), bytes: 1 << 20 };
        Capacity { batches: 1, slots: 4, workers: 2, targets }
    }

    fn answer(wall: Duration) -> Results {
        Results { wall, ..Results::default() }
    }

    #[test]
    fn a_batch_grows_from_the_latest_one_and_a_small_one_for_a_passing_reason_does_not_count() {
        let mut planner = BatchPlanner::default();
        let local = capacity(Duration::from_millis(10));
        assert_eq!(planner.batch_items(&local, None), 1);
        planner.batch_read(1, 8);
        planner.batch_answered(1, &answer(Duration::from_micros(10)));
        let second = planner.batch_items(&local, None);
        assert!(second > 1, "{second}");
        planner.batch_read(second, 8 * second as usize);
        let third = planner.batch_items(&local, None);
        assert!(third > second, "{third}");
        planner.batch_read(1, 8);
        planner.grow_from(second);
        assert_eq!(planner.batch_items(&local, None), third);
    }

    #[test]
    fn sizes_follow_a_place_that_wants_more_work_in_a_batch() {
        let mut planner = BatchPlanner::default();
        planner.measured(1e-3);
        planner.batch_items(&capacity(Duration::from_millis(10)), None);
        planner.batch_read(8, 64);
        planner.batch_items(&capacity(Duration::from_millis(40)), None);
        assert_eq!(planner.latest_items(), 32);
    }

    #[test]
    fn the_first_batch_sets_the_bytes_of_an_item_also_when_its_time_is_known() {
        let mut planner = BatchPlanner::default();
        planner.measured(1e-3);
        planner.batch_read(10, 1000);
        assert!((planner.expected_bytes(3) - 300.0).abs() < 1e-9);
        planner.batch_read(10, 3000);
        assert!((planner.expected_bytes(3) - 600.0).abs() < 1e-9);
    }
}
