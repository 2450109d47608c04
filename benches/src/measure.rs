//! The method: all contestants in turn within a round, the order rotated from round to round; disturbed measurements
//! are set aside and repeated; medians, and ratios within a round.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Plan};
use crate::functions::Work;
use crate::processes::Snapshot;

/// How thoroughly to measure.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) rounds: usize,
    /// Something short is repeated for as long, and the median counts: the kernel counts CPU time in steps of 10 ms,
    /// so that what others do is not seen in less.
    pub(crate) slot: Duration,
    /// A disturbed measurement is made again, up to so many times in all; then the least disturbed counts.
    pub(crate) attempts: usize,
    /// Less of everything.
    pub(crate) quick: bool,
    /// More where it takes long.
    pub(crate) full: bool,
    /// A Python with the peers in it.
    pub(crate) python: Option<PathBuf>,
}

/// The share of the cores that others may take before a measurement counts as disturbed.
pub(crate) const DISTURBED: f64 = 0.05;

/// A contestant in one workload.
pub(crate) struct Entry<'a, T = Option<f64>> {
    pub(crate) name: String,
    pub(crate) run: Box<dyn FnMut() -> T + 'a>,
}

impl<'a, T> Entry<'a, T> {
    pub(crate) fn new<V: Into<T>>(name: impl Into<String>, mut run: impl FnMut() -> V + 'a) -> Self {
        Entry { name: name.into(), run: Box::new(move || run().into()) }
    }
}

/// Entries of one measuring function for several contestants: `entries!([Raw, Rayon], measure::<Sqrt>(arguments))`.
macro_rules! entries {
    ([$($contestant:ident),+ $(,)?], $measure:ident::<$work:ty>$arguments:tt) => {
        vec![$({
            use $crate::contestant::{Contestant, $contestant};
            $crate::measure::Entry::new(<$contestant as Contestant<$work>>::NAME, move || {
                $measure::<$work, $contestant>$arguments
            })
        }),+]
    };
}
pub(crate) use entries;

/// What one contestant reached: one value a round; none where it failed.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// What a workload gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) series: Vec<Series>,
    /// Disturbed measurements that were made again.
    pub(crate) set_aside: usize,
    /// Measurements that count although they were disturbed: each attempt was.
    pub(crate) disturbed: usize,
}

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread { median, least, most })
    }
}

impl Series {
    pub(crate) fn spread(&self, of: impl Fn(f64) -> f64) -> Option<Spread> {
        Spread::of(self.values.iter().flatten().map(|value| of(*value)))
    }

    /// `of(value, reference)` round by round.
    pub(crate) fn against(&self, reference: &Series, of: impl Fn(f64, f64) -> f64) -> Option<Spread> {
        let pairs = self.values.iter().zip(&reference.values);
        Spread::of(pairs.filter_map(|(value, reference)| Some(of((*value)?, (*reference)?))))
    }
}

impl Outcome {
    pub(crate) fn find(&self, name: &str) -> &Series {
        self.series
            .iter()
            .find(|series| series.name == name)
            .expect("workloads ask for contestants that they entered")
    }

    /// Adds the rounds of `more` behind these.
    pub(crate) fn append(&mut self, more: Outcome) {
        for series in more.series {
            match self.series.iter_mut().find(|known| known.name == series.name) {
                Some(known) => known.values.extend(series.values),
                None => self.series.push(series),
            }
        }
        self.set_aside += more.set_aside;
        self.disturbed += more.disturbed;
    }

    /// The better of some contestants, round by round.
    pub(crate) fn least(&self, names: &[&str]) -> Series {
        let rounds = self.series.first().map_or(0, |series| series.values.len());
        let best = |round: usize| {
            names.iter().filter_map(|name| self.find(name).values[round]).min_by(f64::total_cmp)
        };
        Series { name: names.join(", "), values: (0..rounds).map(best).collect() }
    }
}

/// Measures all entries in turn, again and again.
pub(crate) fn rounds(method: &Method, mut entries: Vec<Entry>) -> Outcome {
    let named = |entry: &Entry| Series { name: entry.name.clone(), values: vec![None; method.rounds] };
    let mut outcome = Outcome { series: entries.iter().map(named).collect(), ..Outcome::default() };
    for round in 0..method.rounds {
        for turn in 0..entries.len() {
            let index = (turn + round) % entries.len();
            let mut best: Option<(f64, Option<f64>)> = None;
            for attempt in 1..=method.attempts {
                let before = Snapshot::now();
                let value = (entries[index].run)();
                let others = before.taken_by_others();
                if best.is_none_or(|(least, _)| others < least) {
                    best = Some((others, value));
                }
                if others <= DISTURBED {
                    break;
                }
                match attempt < method.attempts {
                    true => outcome.set_aside += 1,
                    false => outcome.disturbed += 1,
                }
            }
            outcome.series[index].values[round] = best.and_then(|(_, value)| value);
        }
    }
    outcome
}

/// Seconds that `run` takes: the median of as many repetitions as the slot holds, at least one.
pub(crate) fn repeat(slot: Duration, mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || begun.elapsed() < slot {
        times.push(seconds(&mut run));
    }
    Spread::of(times).expect("at least one").median
}

pub(crate) fn seconds(run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    begun.elapsed().as_secs_f64()
}

/// One map of `count` items from end to end; each result must come.
pub(crate) fn pass<W: Work, C: Contestant<W>>(
    contestant: &mut C,
    count: u64,
    item: impl Fn(u64) -> W::In + Send + Sync,
) {
    let mut results = 0;
    contestant.map(count, item, |result| {
        results += u64::from(black_box(&result).is_some());
        true
    });
    assert_eq!(results, count, "{}: each item has a result", C::NAME);
}

/// Seconds of a map whose workers are there and have worked.
pub(crate) fn warm<W: Work, C: Contestant<W>>(
    slot: Duration,
    plan: Plan,
    count: u64,
    item: impl Fn(u64) -> W::In + Send + Sync + Copy,
) -> f64 {
    let mut contestant = C::start(plan);
    pass::<W, C>(&mut contestant, count, item);
    repeat(slot, || pass::<W, C>(&mut contestant, count, item))
}

/// Seconds of a map with the start of its workers and their end.
pub(crate) fn cold<W: Work, C: Contestant<W>>(
    slot: Duration,
    plan: Plan,
    count: u64,
    item: impl Fn(u64) -> W::In + Send + Sync + Copy,
) -> f64 {
    repeat(slot, || pass::<W, C>(&mut C::start(plan), count, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[Option<f64>]) -> Series {
        Series { name: name.to_owned(), values: values.to_vec() }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_a_round_and_leaves_out_rounds_that_failed() {
        // Twice as slow in each round, though the machine was ten times slower in the second.
        let map = series("map", &[Some(1.0), Some(10.0), None]);
        let other = series("other", &[Some(2.0), Some(20.0), Some(5.0)]);
        let ratio = other.against(&map, |time, map| time / map);
        assert_eq!(ratio, Some(Spread { median: 2.0, least: 2.0, most: 2.0 }));
    }

    #[test]
    fn every_entry_is_measured_once_a_round_and_none_always_goes_first() {
        let order = std::cell::RefCell::new(Vec::new());
        let entry = |name: &'static str| {
            let order = &order;
            Entry::new(name, move || {
                order.borrow_mut().push(name);
                1.0
            })
        };
        let method =
            Method { rounds: 2, slot: Duration::ZERO, attempts: 1, quick: true, full: false, python: None };
        let outcome = rounds(&method, vec![entry("a"), entry("b")]);
        assert_eq!(*order.borrow(), ["a", "b", "b", "a"]);
        assert_eq!(outcome.find("a").values, [Some(1.0), Some(1.0)]);
    }
}
