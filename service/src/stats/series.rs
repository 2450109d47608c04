//! The course of a run in slots of time. A slot is a second at first; when there are too many, each two become one, so
//! that a run of a minute and one of a week take the same room. Slots are aligned to 1970: two series of one run (in
//! memory and stored, or of two gateways) add up slot by slot.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most slots of a run's throughput.
const POINTS: usize = 240;
/// Most slots of one worker.
const BUSY: usize = 120;
/// Workers that are counted apart; later ones share the last place.
const LANES: usize = 64;
/// Their name.
const OTHERS: &str = "others";

/// What happened in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct Point {
    /// Items that were answered, failed ones among them.
    pub items: u64,
    /// Batches that were answered.
    pub batches: u64,
    /// Items that failed.
    pub failures: u64,
}

impl From<(u64, u64, u64)> for Point {
    fn from((items, batches, failures): (u64, u64, u64)) -> Self {
        Point { items, batches, failures }
    }
}

impl From<Point> for (u64, u64, u64) {
    fn from(Point { items, batches, failures }: Point) -> Self {
        (items, batches, failures)
    }
}

impl AddAssign for Point {
    fn add_assign(&mut self, other: Point) {
        self.items += other.items;
        self.batches += other.batches;
        self.failures += other.failures;
    }
}

/// Values over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots<T> {
    /// Seconds of a slot, a power of two.
    pub width: i64,
    /// Number of the first slot: its begin in seconds since 1970, divided by the width.
    pub first: i64,
    /// One for each slot.
    pub values: VecDeque<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { width: 1, first: 0, values: VecDeque::new() }
    }
}

impl<T: Copy + Default + AddAssign> Slots<T> {
    /// Adds to the slot of a second, and makes slots wider until there are at most `most`.
    fn add(&mut self, second: i64, value: T, most: usize) {
        let slot = second.div_euclid(self.width);
        if self.values.is_empty() {
            self.first = slot;
        }
        let (begin, end) = (self.first.min(slot), (self.first + self.values.len() as i64).max(slot + 1));
        if end - begin > most as i64 {
            self.widen();
            return self.add(second, value, most);
        }
        while self.first > slot {
            self.values.push_front(T::default());
            self.first -= 1;
        }
        while self.first + (self.values.len() as i64) <= slot {
            self.values.push_back(T::default());
        }
        self.values[(slot - self.first) as usize] += value;
    }

    fn widen(&mut self) {
        let first = self.first.div_euclid(2);
        let mut values: VecDeque<T> = VecDeque::with_capacity(self.values.len() / 2 + 1);
        for (slot, value) in (self.first..).zip(&self.values) {
            let at = (slot.div_euclid(2) - first) as usize;
            if at == values.len() {
                values.push_back(T::default());
            }
            values[at] += *value;
        }
        *self = Slots { width: self.width * 2, first, values };
    }

    fn merge(&mut self, other: &Slots<T>, most: usize) {
        // A wide slot can't be taken apart.
        while !self.values.is_empty() && self.width < other.width {
            self.widen();
        }
        if self.values.is_empty() {
            self.width = other.width;
        }
        for (slot, value) in (other.first..).zip(&other.values) {
            self.add(slot * other.width, *value, most);
        }
    }

    /// Begin of the first slot and end of the last, in seconds since 1970; `None` where nothing has happened.
    pub fn span(&self) -> Option<(i64, i64)> {
        let end = self.first + self.values.len() as i64;
        (!self.values.is_empty()).then(|| (self.first * self.width, end * self.width))
    }
}

impl Slots<u64> {
    /// Adds the milliseconds of a span to the slots in which they lie. Slots are made wide enough first: a long span costs no
    /// more than a short one.
    fn spread(&mut self, begin_ms: i64, end_ms: i64) {
        while (end_ms - begin_ms) / (self.width * 1000) > BUSY as i64 {
            self.widen();
        }
        let mut end = end_ms;
        while end > begin_ms {
            let width = self.width * 1000;
            let from = begin_ms.max((end - 1).div_euclid(width) * width);
            self.add(from.div_euclid(1000), (end - from) as u64, BUSY);
            end = from;
        }
    }
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Its name.
    pub worker: String,
    /// Items that it has answered, failed ones among them.
    pub items: u64,
    /// Parts of batches that it has answered.
    pub parts: u64,
    /// Items that failed.
    pub failures: u64,
    /// It died, and where workers share a place, so many did.
    pub deaths: u64,
    /// CPU time, in milliseconds.
    pub cpu_ms: u64,
    /// Milliseconds that it was busy, over time.
    pub busy: Slots<u64>,
}

/// What a worker has done of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share<'a> {
    pub(crate) worker: &'a str,
    pub(crate) items: u64,
    pub(crate) failures: u64,
    pub(crate) died: bool,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// The course of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// What was answered, over time.
    pub points: Slots<Point>,
    /// Their workers, in the order of their first answer.
    pub lanes: Vec<Lane>,
    /// Items that failed.
    pub failures: u64,
    /// Workers that died.
    pub deaths: u64,
}

impl Series {
    /// A batch was answered.
    pub(crate) fn batch(&mut self, now_ms: i64) {
        self.points.add(now_ms.div_euclid(1000), Point { batches: 1, ..Point::default() }, POINTS);
    }

    /// A worker has done its share of a batch.
    pub(crate) fn share(&mut self, now_ms: i64, share: &Share<'_>) {
        let Share { worker, items, failures, died, wall, cpu } = *share;
        if !died {
            let point = Point { items, batches: 0, failures };
            self.points.add(now_ms.div_euclid(1000), point, POINTS);
        }
        self.failures += failures;
        self.deaths += u64::from(died);
        let lane = self.lane(worker);
        lane.items += items;
        lane.parts += u64::from(!died);
        lane.failures += failures;
        lane.deaths += u64::from(died);
        lane.cpu_ms += cpu.as_millis() as u64;
        // A worker's figures are its word: not more than a day of it.
        let wall = wall.min(Duration::from_hours(24)).as_millis() as i64;
        lane.busy.spread(now_ms - wall, now_ms);
    }

    fn lane(&mut self, worker: &str) -> &mut Lane {
        let known = self.lanes.iter().position(|lane| lane.worker == worker);
        let at = known.unwrap_or_else(|| {
            if self.lanes.len() < LANES {
                let name = if self.lanes.len() == LANES - 1 { OTHERS } else { worker };
                self.lanes.push(Lane { worker: name.to_owned(), ..Lane::default() });
            }
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }

    /// Adds what another series of the same run has.
    pub fn merge(&mut self, other: &Series) {
        self.points.merge(&other.points, POINTS);
        self.failures += other.failures;
        self.deaths += other.deaths;
        for from in &other.lanes {
            let lane = self.lane(&from.worker);
            lane.items += from.items;
            lane.parts += from.parts;
            lane.failures += from.failures;
            lane.deaths += from.deaths;
            lane.cpu_ms += from.cpu_ms;
            lane.busy.merge(&from.busy, BUSY);
        }
    }

    /// All points together.
    pub fn total(&self) -> Point {
        self.points.values.iter().fold(Point::default(), |mut sum, point| {
            sum += *point;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busy(lane: &Lane) -> u64 {
        lane.busy.values.iter().sum()
    }

    #[test]
    fn a_long_batch_is_spread_over_the_seconds_in_which_it_ran() {
        let mut series = Series::default();
        let wall = Duration::from_millis(2500);
        series.share(10_200, &Share { worker: "w", items: 1, wall, ..Share::default() });
        let lane = &series.lanes[0];
        assert_eq!(lane.busy, Slots { width: 1, first: 7, values: [300, 1000, 1000, 200].into() });
    }

    #[test]
    fn a_worker_that_claims_days_costs_no_more_than_another() {
        let mut series = Series::default();
        let begun = std::time::Instant::now();
        for at in 0..1000 {
            let wall = Duration::from_hours(1000);
            series.share(100_000_000_000 + at, &Share { worker: "w", items: 1, wall, ..Share::default() });
        }
        assert_eq!(busy(&series.lanes[0]), 1000 * 24 * 3_600_000);
        assert!(series.lanes[0].busy.values.len() <= BUSY && begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_week_takes_the_room_of_a_minute() {
        let mut series = Series::default();
        for minute in 0..7 * 24 * 60 {
            let worker = format!("worker-{}", minute % 100);
            series.batch(minute * 60_000);
            let wall = Duration::from_secs(30);
            series.share(minute * 60_000, &Share { worker: &worker, items: 3, wall, ..Share::default() });
        }
        assert_eq!(series.total(), Point { items: 30_240, batches: 10_080, failures: 0 });
        assert!(series.points.values.len() <= POINTS && series.lanes.len() == LANES);
        assert_eq!(series.lanes[LANES - 1].worker, OTHERS);
        assert_eq!(series.lanes.iter().map(busy).sum::<u64>(), 10_080 * 30_000);
        let text = serde_json::to_string(&series).expect("numbers");
        assert!(text.len() < 100_000, "{}", text.len());
        assert_eq!(serde_json::from_str::<Series>(&text).expect("as it was written"), series);
    }

    proptest! {
        /// In one series or in several that are merged in any order: nothing is lost, nothing counted twice.
        #[test]
        fn merging_loses_nothing(notes in prop::collection::vec((0i64..5_000_000, 0u64..9, 0u64..20_000, 0usize..3), 1..60)) {
            let mut whole = Series::default();
            let mut parts: [Series; 3] = Default::default();
            for (at, items, wall, which) in notes {
                let worker = format!("w{}", items % 3);
                let wall = Duration::from_millis(wall);
                let share = Share { worker: &worker, items, wall, died: items == 8, ..Share::default() };
                for series in [&mut whole, &mut parts[which]] {
                    series.batch(at);
                    series.share(at, &share);
                }
            }
            let mut merged = Series::default();
            for part in &parts {
                merged.merge(part);
            }
            prop_assert_eq!(merged.total(), whole.total());
            prop_assert_eq!(merged.deaths, whole.deaths);
            prop_assert!(merged.points.values.len() <= POINTS);
            let sums = |series: &Series| {
                let mut sums: Vec<_> = series.lanes.iter().map(|lane| (lane.worker.clone(), lane.items, busy(lane))).collect();
                sums.sort();
                sums
            };
            prop_assert_eq!(sums(&merged), sums(&whole));
        }
    }
}
