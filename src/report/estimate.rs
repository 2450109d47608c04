//! What plain `map` would have taken in place of a map: bounds from what was measured, and a figure where
//! they are close.
//!
//! A worker measures the time of its items on the clock, on the CPU, and in the run queue. On the clock an
//! item also waits: for a core that other programs have, or other workers; for a disk, a server, a thread of
//! its own, other items that want the same. How long it would wait for those under `map` is not measured, so
//! that such maps have no figure.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::report::map_stats::MapStats;

/// A figure is given where the upper bound is no more than this share above the lower one.
const CLOSE: f64 = 1.15;
/// Workers that waited for a core for less than this share of their time had one to themselves: so would
/// `map`.
const HELD_UP: f64 = 0.05;
/// Less work than this for each worker has no figure: of its last millisecond a worker does not tell how much
/// it waited.
const SHORT: Duration = Duration::from_millis(10);
/// Items that were answered and not delivered have unknown shares in the times: of more than these no figure
/// is made.
const DELIVERED: f64 = 0.9;
/// A lower bound that is claimed is lowered by this share: workers disturb each other's caches.
const SURE: f64 = 0.9;
/// Items take at least this share of their CPU time where cores slow each other down: two threads of one
/// core, or a clock that falls when several work.
const SLOWED: f64 = 0.5;

/// Most that decoding an item and encoding its result takes in a worker, which `map` does not do. First for
/// those whose bytes have a fixed size, then for all others. Nanoseconds an item, and a byte.
const CODING: [(f64, f64); 2] =
    if cfg!(debug_assertions) { [(1000.0, 10.0), (4000.0, 100.0)] } else { [(20.0, 0.25), (200.0, 5.0)] };

/// What `map` would have taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// The figure; `None`: what was measured does not tell.
    pub(crate) map: Option<Duration>,
    /// It would have taken longer than this.
    pub(crate) least: Duration,
    /// It would have taken less than this.
    pub(crate) most: Duration,
    /// The share of their time that workers waited for a core, where that is why there is no figure.
    pub(crate) held_up: Option<f64>,
}

impl Estimate {
    /// `None` where `map` would not have done the same: it would have ended at the first failed item, it has
    /// no checkpoint, and no other machines.
    pub(crate) fn of(account: &MapStats) -> Option<Estimate> {
        let MapStats { answered, elapsed, wall, cpu, waited, .. } = *account;
        let went_wrong =
            account.ended_by.is_some() || account.failed + account.failed_tries + account.deaths > 0;
        let elsewhere = account.cloud > 0 || account.paid.microcredits > 0;
        let delivered = account.by_workers() as f64 / answered.max(1) as f64;
        if went_wrong || elsewhere || account.restored > 0 || delivered < DELIVERED {
            return None;
        }
        let delivered = delivered.min(1.0);
        let (each, byte) = CODING[usize::from(!account.plain)];
        let coding = Duration::from_secs_f64((each * answered as f64 + byte * account.bytes as f64) / 1e9);
        let alone = if account.steady { 1.0 } else { SLOWED };
        let computed = cpu.saturating_sub(coding).mul_f64(delivered * alone);
        // What the program did itself while it did not wait, it would have done beside `map`, as well. How
        // much of that time was its own is not measured: sending and reading takes the rest.
        let program = elapsed.saturating_sub(waited).saturating_sub(account.beginning);
        // A confined worker can't tell what it waited for.
        let queued = account.queued.unwrap_or(wall.saturating_sub(cpu)).min(wall);
        let most = wall.mul_f64(delivered) + program;
        let held_up = queued.div_duration_f64(wall.max(Duration::from_nanos(1)));
        let held_up = (held_up > HELD_UP && !has_the_cores(account, program)).then_some(held_up);
        let undisturbed = wall.saturating_sub(queued).mul_f64(delivered) + program;
        let is_short = wall < SHORT * account.workers as u32;
        let is_close = held_up.is_none() && !is_short && undisturbed <= computed.mul_f64(CLOSE);
        Some(Estimate {
            map: is_close.then(|| (undisturbed + computed) / 2),
            least: computed.mul_f64(SURE),
            most,
            held_up,
        })
    }
}

/// Whether workers that waited for a core waited for each other: they had nearly all that the cores gave.
fn has_the_cores(account: &MapStats, program: Duration) -> bool {
    let MapStats { elapsed, cpu, workers, cores, .. } = *account;
    if account.queued.is_none() || workers < cores {
        return false;
    }
    // Of few cores the map's one thread would feel it if others had a tenth.
    let share = if cores < 4 { 0.9 } else { 0.8 };
    let worked = elapsed.saturating_sub(account.first.unwrap_or_default());
    (cpu + program).as_secs_f64() >= share * cores as f64 * worked.as_secs_f64()
}

/// Whether a core is as fast beside busy ones as alone: it has one thread, and its clock is not known to
/// change.
pub(crate) fn cores_are_steady() -> bool {
    static STEADY: OnceLock<bool> = OnceLock::new();
    *STEADY.get_or_init(|| {
        let cpu = Path::new("/sys/devices/system/cpu");
        let threads = std::fs::read_to_string(cpu.join("cpu0/topology/thread_siblings_list"));
        let is_alone = threads.is_ok_and(|list| !list.trim().contains([',', '-']));
        is_alone && !cpu.join("cpu0/cpufreq").exists()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MS: Duration = Duration::from_millis(1);

    fn figure(account: &MapStats) -> Option<Duration> {
        Estimate::of(account).and_then(|estimate| estimate.map)
    }

    #[test]
    fn workers_that_have_the_cores_to_themselves_measure_what_map_takes() {
        let map = figure(&MapStats::example()).expect("nothing was in the way");
        assert!((1900 * MS..2010 * MS).contains(&map), "{map:?}");
    }

    #[test]
    fn without_the_cores_there_is_no_figure() {
        // Two workers of one second each; a program that spins has taken a third of the cores.
        let shared = MapStats { cpu: 1333 * MS, queued: Some(667 * MS), ..MapStats::example() };
        let estimate = Estimate::of(&shared).expect("it is comparable");
        assert_eq!(estimate.map, None);
        assert!(estimate.held_up.is_some_and(|share| (0.3..0.4).contains(&share)), "{estimate:?}");
        // Both on one core of two.
        assert_eq!(
            figure(&MapStats { cpu: 1000 * MS, queued: Some(1000 * MS), ..MapStats::example() }),
            None
        );
        // A confined worker does not know what it waited for.
        assert_eq!(figure(&MapStats { cpu: 1333 * MS, queued: None, ..MapStats::example() }), None);
    }

    #[test]
    fn workers_that_outnumber_the_cores_wait_for_each_other_alone() {
        let crowd = |cpu: u32| MapStats {
            workers: 6,
            wall: 6000 * MS,
            cpu: cpu * MS,
            queued: Some((6000 - cpu) * MS),
            ..MapStats::example()
        };
        let map = figure(&crowd(1950)).expect("nobody else was there");
        assert!((1900 * MS..2010 * MS).contains(&map), "{map:?}");
        assert_eq!(figure(&crowd(1500)), None, "others were");
        let asleep = MapStats { queued: Some(2000 * MS), ..crowd(1950) };
        assert_eq!(figure(&asleep), None, "two of four seconds they did something else");
    }

    #[test]
    fn what_items_wait_for_may_be_the_other_items() {
        let asleep = MapStats { cpu: 10 * MS, ..MapStats::example() };
        let estimate = Estimate::of(&asleep).expect("it is comparable");
        assert_eq!((estimate.map, estimate.held_up), (None, None));
        // Ctrl-Z for 10 s, of which two workers have 20: it is in the time of each running item.
        let stopped = MapStats { wall: 22 * 1000 * MS, elapsed: 11 * 1000 * MS, ..MapStats::example() };
        assert_eq!(figure(&stopped), None);
    }

    #[test]
    fn the_time_of_sending_is_not_the_program_s() {
        // A thousand items of 74 ns; the map has taken 400 µs in `next()`.
        let micros = Duration::from_micros;
        let tiny = MapStats {
            elapsed: micros(500),
            waited: micros(100),
            beginning: micros(250),
            wall: micros(74),
            cpu: micros(74),
            plain: true,
            ..MapStats::example()
        };
        let estimate = Estimate::of(&tiny).expect("it is comparable");
        assert_eq!(estimate.map, None);
        // Encoding a large context, and starting workers, is no work of the program's.
        let begun = MapStats {
            elapsed: 3000 * MS,
            beginning: 2000 * MS,
            first: Some(2000 * MS),
            ..MapStats::example()
        };
        let map = figure(&begun).expect("nothing was in the way");
        assert!((1900 * MS..2010 * MS).contains(&map), "{map:?}");
    }

    #[test]
    fn items_that_are_mostly_data_have_no_figure() {
        let data = MapStats { plain: false, bytes: 400_000_000, ..MapStats::example() };
        assert_eq!(figure(&data), None);
    }

    #[test]
    fn map_would_not_have_done_the_same() {
        let example = MapStats::example;
        for other in [
            MapStats { ended_by: Some(ErrorKind::Declined), ..example() },
            MapStats { failed: 1, ..example() },
            MapStats { failed_tries: 1, ..example() },
            MapStats { deaths: 1, ..example() },
            MapStats { restored: 1, ..example() },
            MapStats { cloud: 1, ..example() },
            MapStats { delivered: 800, complete: false, ..example() },
        ] {
            assert_eq!(Estimate::of(&other), None, "{other:?}");
        }
        assert!(figure(&MapStats { delivered: 990, complete: false, ..example() }).is_some());
    }

    #[test]
    fn cores_that_slow_each_other_down_give_a_lower_bound_alone() {
        let account = MapStats { steady: false, ..MapStats::example() };
        let estimate = Estimate::of(&account).expect("it is comparable");
        assert_eq!(estimate.map, None);
        assert!((850 * MS..900 * MS).contains(&estimate.least), "{estimate:?}");
    }
}
