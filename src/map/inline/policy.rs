//! When a map stays in the calling thread and when it goes to workers: pure decisions, tested without
//! processes. Called by `source` for each portion; knows times and numbers of items alone.

use std::time::Duration;

/// Work of one portion, which bounds what is done ahead of the consumer. Reading a clock and deciding cost a
/// thousandth of it.
const PORTION: f64 = 50e-6;
/// Most items of a portion, and most bytes of their results in memory: what the first-level cache holds.
const ITEMS: u32 = 2048;
const BYTES: usize = 32 * 1024;
/// A portion is at most this many times as large as the one before.
const GROWTH: u32 = 8;
/// The clock is read after this much work, by the pace of the last portion, and at the latest after this
/// number of items: items may become slower.
const LOOK: f64 = 5e-6;
const LOOK_ITEMS: u32 = 256;

/// See [`Throughput::is_cheap`].
const CHEAP: f64 = 150e-9;

/// Recent times are halved when they add up to more than this, so that older ones count less.
const RECENT: f64 = 20e-3;

/// What an item costs beside its work to reach a worker and return: in all threads together, and in this
/// thread.
const TRANSFER: f64 = 100e-9;
const HANDLING: f64 = 60e-9;
/// What going to workers costs when they must be started (two cores: 2–3 ms), and when they are there.
const START: f64 = 10e-3;
const HANDOVER: f64 = 0.5e-3;
/// Work that must have been seen before workers are started, and before workers that were there for another
/// map are used.
const EVIDENCE_COLD: f64 = 2e-3;
const EVIDENCE_WARM: f64 = 0.5e-3;
/// Workers must be expected to take less than this share of the time that the calling thread would.
const WORTH: f64 = 0.8;
/// One item that takes this long is evidence enough: the second would cost more than a wrong decision.
const LONG: f64 = 0.2;

/// Time with the workers before the first check whether they were worth it; doubled each time.
const WATCH: f64 = 10e-3;
/// How much slower than the calling thread the workers must be for a return.
const SLOWER: f64 = 1.2;

/// Items that run in one go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Portion {
    pub(crate) items: u32,
    /// The clock is read after this number of items.
    pub(crate) look: u32,
    /// After this time the portion ends.
    pub(crate) time: Duration,
}

/// What is known of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// None was started for any map yet.
    Cold,
    /// Some were there for another map.
    Warm,
    /// They are being started, or asked.
    Starting,
    /// They have answered.
    Ready,
    /// They can't be started.
    Refused,
}

/// Where the next items run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Stay,
    /// Stays, and has workers started meanwhile.
    WarmUp,
    HandOver,
}

/// How fast the calling thread is, and whether workers would be faster.
#[derive(Debug, Default)]
pub(crate) struct Throughput {
    /// Items that this thread has run since the map began or came back, and the seconds that they took.
    items: u64,
    time: f64,
    /// Seconds of the first item, which counts only while it is the only one.
    first: f64,
    recent_items: f64,
    recent_time: f64,
    /// Of the last portion: items, and seconds an item.
    size: u32,
    last: f64,
    /// Seconds an item that workers were seen to need, and seconds of work in this thread until that is
    /// forgotten.
    worker_pace: Option<(f64, f64)>,
}

impl Throughput {
    /// `items` items took `time` in the calling thread.
    pub(crate) fn observe(&mut self, items: u32, time: Duration) {
        // A portion that only found the end of the input has no time per item.
        if items == 0 {
            return;
        }
        let time = time.as_secs_f64();
        if self.items == 0 {
            // The first item alone may pay for page faults and for values that are built at the first use.
            self.first = time / f64::from(items);
        } else {
            self.recent_items += f64::from(items);
            self.recent_time += time;
            if self.recent_time > RECENT {
                self.recent_items /= 2.0;
                self.recent_time /= 2.0;
            }
        }
        self.items += u64::from(items);
        self.time += time;
        self.size = items;
        self.last = time / f64::from(items);
        if let Some((_, good_for)) = &mut self.worker_pace {
            *good_for -= time;
            if *good_for <= 0.0 {
                self.worker_pace = None;
            }
        }
    }

    /// Seconds that an item takes in this thread.
    pub(crate) fn item(&self) -> f64 {
        if self.recent_items > 0.0 { self.recent_time / self.recent_items } else { self.first }
    }

    /// Whether items are so cheap that handing over a result is a visible part of them: to store and read it
    /// again costs a nanosecond or two, where the call of a single item overlaps with the work of the one
    /// before.
    pub(crate) fn is_cheap(&self) -> bool {
        self.items > 1 && self.last < CHEAP
    }

    /// The next portion, of results of `bytes` each.
    pub(crate) fn portion(&self, bytes: usize) -> Portion {
        let time = Duration::from_secs_f64(2.0 * PORTION);
        if self.items == 0 {
            return Portion { items: 1, look: 1, time };
        }
        // A clock that has not moved gives 0.
        let each = self.last.max(1e-10);
        // Growth is bounded because a pace that was seen of few items may not hold for many.
        let most = ITEMS.min((BYTES / bytes.max(1)) as u32).min(self.size.saturating_mul(GROWTH));
        let items = ((PORTION / each) as u32).min(most).max(1);
        let look = ((LOOK / each) as u32).clamp(1, LOOK_ITEMS);
        Portion { items, look, time }
    }

    /// Whether the decision may be other than to stay. This check costs less than the decision.
    #[inline]
    pub(crate) fn has_evidence(&self, workers: Workers) -> bool {
        match workers {
            Workers::Cold => self.time >= EVIDENCE_COLD,
            Workers::Warm => self.time >= EVIDENCE_WARM,
            Workers::Starting | Workers::Refused => false,
            // Workers that are there cost little, but the first item's time may mislead, unless it is a long
            // one.
            Workers::Ready => self.items >= 2 || self.item() >= LONG,
        }
    }

    /// Decides where the next items run. `rest` is the `size_hint` of what is left; `places` workers can
    /// compute at a time.
    pub(crate) fn choose(&self, rest: (usize, Option<usize>), places: usize, workers: Workers) -> Choice {
        let cost = if workers == Workers::Cold { START } else { HANDOVER };
        // One worker gains nothing: the calling thread would only wait for it.
        if places < 2 || !self.has_evidence(workers) || !self.pays(rest, places, cost) {
            Choice::Stay
        // An item this long costs more in this thread than the wait for workers that start.
        } else if workers == Workers::Ready || self.item() >= LONG {
            Choice::HandOver
        } else {
            Choice::WarmUp
        }
    }

    fn pays(&self, (low, high): (usize, Option<usize>), places: usize, cost: f64) -> bool {
        // An input of unknown length is expected to have as many more items as were run.
        let most = high.map_or(f64::INFINITY, |high| high as f64);
        let items = (self.items as f64).max(low as f64).min(most);
        let inline = items * self.item();
        // A last round that does not fill all places takes as long as one that does.
        let rounds = (items / places as f64).ceil();
        let seen = self.worker_pace.map_or(0.0, |(each, _)| each);
        // This thread encodes and decodes each item, however many workers there are. Workers that were slower
        // once are not expected to be quicker than they were seen to be.
        let by_workers = (rounds * (self.item() + TRANSFER)).max(items * HANDLING).max(items * seen);
        by_workers + cost < WORTH * inline
    }

    /// The calling thread takes over again: workers needed `each` seconds an item, and had the map for
    /// `seconds`.
    pub(crate) fn on_return(&mut self, each: f64, seconds: f64) {
        // Ten times the time with the workers, so that the map does not go to and fro. All else is measured
        // anew: the items may have changed.
        *self = Throughput { worker_pace: Some((each, 10.0 * seconds)), ..Throughput::default() };
    }
}

/// Watches from time to time whether the workers are worth their cost.
#[derive(Debug)]
pub(crate) struct RegressionCheck {
    /// Seconds an item that the map took inline, its consumer included.
    inline_item: f64,
    window: f64,
    /// At the begin of the window: seconds, items, and seconds in workers.
    from: (f64, u64, f64),
}

/// Workers are not worth their cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slower {
    /// Seconds an item that they needed.
    pub(crate) each: f64,
}

impl RegressionCheck {
    /// Before anything is known.
    pub(crate) fn new() -> Self {
        RegressionCheck { inline_item: 0.0, window: WATCH, from: (0.0, 0, 0.0) }
    }

    /// The map goes to workers. `inline_item`: seconds an item until now. `now`, `answered`, `worked`: see
    /// [`RegressionCheck::check`].
    pub(crate) fn begin(&mut self, inline_item: f64, now: f64, answered: u64, worked: f64) {
        self.inline_item = inline_item;
        self.from = (now, answered, worked);
    }

    /// Checks at second `now`, when workers have answered `answered` items in all and worked for `worked`
    /// seconds.
    pub(crate) fn check(&mut self, now: f64, answered: u64, worked: f64, places: usize) -> Option<Slower> {
        let (seconds, items) = (now - self.from.0, (answered - self.from.1) as f64);
        // A few items prove nothing: one of them may be a long one.
        if seconds < self.window || items < 8.0 * places as f64 {
            return None;
        }
        let (each, work) = (seconds / items, (worked - self.from.2) / items);
        // Each window is judged alone: a mean since the hand-over would hide that items have become cheap.
        self.from = (now, answered, worked);
        // `each` includes the consumer's time, which may hide that items are too cheap for workers.
        let cheap = ((work + TRANSFER) / places as f64).max(HANDLING) > work;
        if each > SLOWER * self.inline_item || cheap {
            // The next stay with workers is watched for longer, or the map would only go to and fro.
            self.window = WATCH.max(self.window * 4.0);
            return Some(Slower { each });
        }
        self.window *= 2.0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: f64 = 1e-6;

    /// A pace after `seconds` of items that take `each`.
    fn pace(each: f64, seconds: f64) -> Throughput {
        let mut pace = Throughput::default();
        let mut done = 0.0;
        while done < seconds {
            let portion = pace.portion(8);
            let time = f64::from(portion.items) * each;
            pace.observe(portion.items, Duration::from_secs_f64(time));
            done += time;
        }
        pace
    }

    fn exactly(items: usize) -> (usize, Option<usize>) {
        (items, Some(items))
    }

    #[test]
    fn the_first_portion_is_one_item_and_the_next_ones_grow_to_their_time() {
        let mut pace = Throughput::default();
        let mut sizes = Vec::new();
        for _ in 0..4 {
            let items = pace.portion(8).items;
            sizes.push(items);
            pace.observe(items, Duration::from_micros(3 * u64::from(items)));
        }
        assert_eq!(sizes, [1, 8, 16, 16]);
    }

    #[test]
    fn portions_are_bounded_in_items_in_bytes_and_to_one_slow_item() {
        assert_eq!(pace(3e-9, 1e-3).portion(8).items, ITEMS);
        assert_eq!(pace(3e-9, 1e-3).portion(4096).items, 8);
        assert_eq!(pace(3e-9, 1e-3).portion(1 << 20).items, 1);
        assert_eq!(pace(3e-9, 1e-3).portion(0).items, ITEMS);
        assert_eq!(pace(1e-3, 10e-3).portion(8), Portion { items: 1, look: 1, ..pace(1.0, 1.0).portion(8) });
    }

    #[test]
    fn a_small_map_stays_whatever_its_items() {
        for (each, items) in [(MICRO, 10_000), (100.0 * MICRO, 100), (5e-3, 3), (10e-3, 1)] {
            let pace = pace(each, 2.5e-3);
            assert_eq!(pace.choose(exactly(items), 2, Workers::Cold), Choice::Stay, "{items} of {each} s");
        }
    }

    #[test]
    fn a_large_map_has_workers_started_and_goes_when_they_are_there() {
        for (each, items) in [(MICRO, 1_000_000), (100.0 * MICRO, 10_000), (10e-3, 100)] {
            let pace = pace(each, 2.5 * each.max(MICRO * 1000.0));
            assert_eq!(pace.choose(exactly(items), 2, Workers::Cold), Choice::WarmUp, "{items} of {each} s");
            assert_eq!(pace.choose(exactly(items), 2, Workers::Starting), Choice::Stay);
            assert_eq!(pace.choose(exactly(items), 2, Workers::Ready), Choice::HandOver);
            assert_eq!(pace.choose(exactly(items), 2, Workers::Refused), Choice::Stay);
        }
    }

    #[test]
    fn one_long_item_is_evidence_enough() {
        assert_eq!(pace(0.3, 0.3).choose(exactly(8), 8, Workers::Cold), Choice::HandOver);
        assert_eq!(pace(0.3, 0.3).choose(exactly(1), 8, Workers::Cold), Choice::Stay);
    }

    #[test]
    fn a_slow_first_item_leads_nowhere() {
        let mut pace = Throughput::default();
        pace.observe(1, Duration::from_micros(100));
        assert_eq!(pace.choose(exactly(1000), 2, Workers::Cold), Choice::Stay);
        // Ten milliseconds of setting something up: workers are started, but not used.
        let mut pace = Throughput::default();
        pace.observe(1, Duration::from_millis(10));
        assert_eq!(pace.choose(exactly(1000), 2, Workers::Cold), Choice::WarmUp);
        pace.observe(1, Duration::from_micros(1));
        assert_eq!(pace.choose(exactly(999), 2, Workers::Ready), Choice::Stay);
    }

    #[test]
    fn items_too_cheap_for_any_worker_stay_for_ever() {
        for workers in [Workers::Cold, Workers::Warm, Workers::Ready] {
            assert_eq!(pace(3e-9, 0.1).choose((usize::MAX, None), 64, workers), Choice::Stay);
        }
    }

    #[test]
    fn one_place_is_no_gain() {
        assert_eq!(pace(1e-3, 0.1).choose(exactly(1_000_000), 1, Workers::Ready), Choice::Stay);
    }

    #[test]
    fn an_input_of_unknown_length_must_have_gone_on_for_a_while() {
        let unknown = (0, None);
        assert_eq!(pace(MICRO, 5e-3).choose(unknown, 2, Workers::Cold), Choice::Stay);
        assert_eq!(pace(MICRO, 50e-3).choose(unknown, 2, Workers::Cold), Choice::WarmUp);
        assert_eq!(pace(MICRO, 50e-3).choose((0, Some(100)), 2, Workers::Cold), Choice::Stay);
    }

    #[test]
    fn slow_workers_get_no_items_again_soon() {
        let mut pace = Throughput::default();
        pace.on_return(2.0 * MICRO, 0.01);
        for _ in 0..100 {
            pace.observe(50, Duration::from_micros(50));
        }
        assert_eq!(pace.choose(exactly(10_000_000), 2, Workers::Ready), Choice::Stay);
        for _ in 0..2000 {
            pace.observe(50, Duration::from_micros(50));
        }
        assert_eq!(pace.choose(exactly(10_000_000), 2, Workers::Ready), Choice::HandOver);
    }

    #[test]
    fn items_that_grow_heavy_go_to_workers_again_although_these_were_slower() {
        let mut pace = Throughput::default();
        pace.on_return(2.0 * MICRO, 0.01);
        pace.observe(1, Duration::from_micros(100));
        pace.observe(10, Duration::from_millis(1));
        assert_eq!(pace.choose(exactly(100_000), 2, Workers::Ready), Choice::HandOver);
    }

    #[test]
    fn a_map_comes_back_from_workers_that_are_slower() {
        let mut check = RegressionCheck::new();
        check.begin(20.0 * MICRO, 0.0, 0, 0.0);
        assert_eq!(check.check(0.005, 1000, 0.01, 2), None, "too soon");
        // Two workers are busy all the time, with reading their items.
        let slower = check.check(0.05, 1000, 0.1, 2).expect("50 µs an item are more than 20");
        assert!((slower.each - 50.0 * MICRO).abs() < 1e-9);
        check.begin(20.0 * MICRO, 1.0, 1000, 0.1);
        assert_eq!(check.check(1.02, 1200, 0.1, 2), None, "watched for longer than before");
    }

    #[test]
    fn a_map_comes_back_when_its_items_get_cheap() {
        let mut check = RegressionCheck::new();
        check.begin(MICRO, 0.0, 0, 0.0);
        assert_eq!(check.check(0.02, 40_000, 0.04, 2), None);
        assert!(check.check(0.06, 700_000, 0.05, 2).is_some());
    }

    #[test]
    fn a_few_slow_items_say_nothing() {
        let mut check = RegressionCheck::new();
        check.begin(MICRO, 0.0, 0, 0.0);
        assert_eq!(check.check(1.0, 8, 2.0, 2), None);
    }
}
