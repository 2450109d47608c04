//! The closing line of a map: a pure function of its account, tested without a map.

use std::fmt::Write as _;
use std::time::Duration;

use fastmap_backends::{counted, credits, in_credits};

use super::estimate::Estimate;
use crate::report::format::time;
use crate::report::map_stats::MapStats;

/// A saving below this share of the time is none.
const WORTH: f64 = 1.05;
/// Below this an item is too cheap for any process.
const CHEAP: Duration = Duration::from_micros(2);
/// A start that takes this share of the map is why it was not faster.
const LONG_START: f64 = 0.3;

/// What the service was good for, against this machine alone: without it `map` was no alternative, but LOCAL.
fn by_the_service(stats: &MapStats, alone: Duration) -> String {
    let (seconds, alone_seconds) = (stats.elapsed.as_secs_f64(), alone.as_secs_f64());
    let saved = match alone_seconds > seconds * WORTH {
        true => format!(
            "it saved {} ({:.1}x)",
            time(alone.saturating_sub(stats.elapsed)),
            alone_seconds / seconds.max(1e-9)
        ),
        false => "it saved next to nothing".to_owned(),
    };
    format!("; without the service this machine would have taken about {}: {saved}", time(alone))
}

/// One line, without the map's label.
pub(crate) fn closing_line(stats: &MapStats, backend: &str) -> String {
    let seconds = stats.elapsed.as_secs_f64();
    let rate = stats.delivered as f64 / seconds.max(1e-9);
    let mut line = format!("{} in {} ({rate:.0}/s", counted(stats.delivered, "item"), time(stats.elapsed));
    if !backend.is_empty() {
        let _infallible = write!(line, ", {backend}");
    }
    let restored = (stats.restored, format!("{} from the checkpoint", stats.restored));
    let failed = (stats.failed, format!("{} failed", stats.failed));
    let lost = (stats.deaths, format!("{} lost", counted(stats.deaths, "worker")));
    for (count, text) in [restored, failed, lost] {
        if count > 0 {
            let _infallible = write!(line, ", {text}");
        }
    }
    if stats.is_paid() {
        let _infallible = write!(line, ", {}", in_credits(stats.paid.microcredits as i64));
        if let Some(balance) = stats.paid.balance {
            let _infallible = write!(line, ", {} left", credits(balance));
        }
    }
    if let Some(kind) = stats.ended_by {
        let _infallible = write!(line, ", ended by an error: {kind:?}");
    } else if !stats.complete {
        line += ", not read to the end";
    }
    line.push(')');
    line + &comparison(stats, backend)
}

/// Whether it made sense, as far as what was measured tells.
fn comparison(stats: &MapStats, backend: &str) -> String {
    if stats.ended_by.is_some() {
        return String::new();
    }
    if stats.answered == 0 && stats.inline_items > 0 {
        return ": too little work for processes".to_owned();
    }
    // Nobody knows what the items from the checkpoint took.
    if stats.answered == 0 || stats.by_workers() == 0 || stats.restored > 0 {
        return String::new();
    }
    if let Some(alone) = stats.alone {
        return by_the_service(stats, alone);
    }
    if stats.is_paid() {
        return in_the_service(stats);
    }
    // The workers of another backend may be on other machines.
    let estimate = Estimate::of(stats).filter(|_| matches!(backend, "local" | "adaptive"));
    estimate.map_or_else(String::new, |estimate| against_map(stats, &estimate))
}

/// What the service's workers computed. They are not this machine's, so that it tells nothing of `map`.
fn in_the_service(stats: &MapStats) -> String {
    let items = format!("; the items took its workers {}", time(stats.wall));
    match stats.wall < stats.elapsed {
        true => items + " in all, less than the map: the policy local may be as fast",
        false => items + " in all",
    }
}

/// The figure, if there is one; what is certain without it.
fn against_map(stats: &MapStats, estimate: &Estimate) -> String {
    let Estimate { map, least, most, held_up } = *estimate;
    let saved = |from: Duration| {
        let times = from.as_secs_f64() / stats.elapsed.as_secs_f64().max(1e-9);
        format!("{} ({times:.1}x)", time(from.saturating_sub(stats.elapsed)))
    };
    match map {
        Some(map) if map > stats.elapsed.mul_f64(WORTH) => {
            return format!("; map would take about {}: saved {}", time(map), saved(map));
        }
        None if least > stats.elapsed.mul_f64(WORTH) => {
            return format!("; saved at least {}", saved(least));
        }
        _ => {}
    }
    let why = why_not(stats);
    match (map, held_up) {
        (Some(map), _) => {
            let map = format!("map would take about {}. {why}", time(map));
            format!("; it did not make sense to use fastmap here: {}", map.trim_end_matches(". "))
        }
        (None, _) if most < stats.elapsed => {
            let why = if why.is_empty() { "map would be faster" } else { &why };
            format!("; it did not make sense to use fastmap here: {why}")
        }
        (None, Some(share)) => format!(
            "; what map would take is not known, as the workers waited {:.0} % of their time for a core",
            share * 100.0
        ),
        (None, None) if why.is_empty() => String::new(),
        (None, None) => format!("; {why}"),
    }
}

/// What kept the map from being faster, where that was measured.
fn why_not(stats: &MapStats) -> String {
    let item = stats.wall.div_f64(stats.answered.max(1) as f64);
    let first = stats.first.unwrap_or_default();
    if item < CHEAP {
        format!("an item takes less than {}: give each one more work, or use Iterator::map", time(item))
    } else if stats.waited < stats.elapsed / 2 && stats.beginning < stats.elapsed / 2 {
        "most of the time went into reading the input, sending the items and using the results, which happens in \
         this thread"
            .to_owned()
    } else if stats.workers == 1 {
        "one worker is not faster than none, but the program survives what happens in it".to_owned()
    } else if first.as_secs_f64() > LONG_START * stats.elapsed.as_secs_f64() {
        format!("{} of the {} went by until a worker was ready", time(first), time(stats.elapsed))
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use fastmap_backends::Receipt;

    use super::*;
    use crate::ErrorKind;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_map_that_paid_off_says_what_was_saved() {
        let line = closing_line(&MapStats::example(), "local");
        let (figures, saved) = line.split_once(": saved ").expect("it paid off");
        assert_eq!(figures, "1000 items in 1.00 s (1000/s, local); map would take about 1.96 s");
        assert!(saved.starts_with("95") && saved.ends_with(" ms (2.0x)"), "{line}");
    }

    #[test]
    fn a_map_that_could_not_go_on_says_by_what_error_and_compares_with_nothing() {
        let ended =
            MapStats { complete: false, ended_by: Some(ErrorKind::NotEntered), ..MapStats::example() };
        let none = MapStats { delivered: 0, answered: 0, ..ended.clone() };
        assert_eq!(closing_line(&none, ""), "0 items in 1.00 s (0/s, ended by an error: NotEntered)");
        for kind in [ErrorKind::Declined, ErrorKind::OutOfCredits] {
            // An estimate's items were done here; nothing was sent.
            let few =
                MapStats { ended_by: Some(kind), delivered: 8, answered: 20, wall: 9 * MS, ..ended.clone() };
            let line = closing_line(&few, "cloud");
            assert!(line.ends_with(&format!("ended by an error: {kind:?})")), "{line}");
            let alone = MapStats { alone: Some(9000 * MS), ..few };
            assert!(closing_line(&alone, "adaptive").ends_with(&format!("ended by an error: {kind:?})")));
        }
    }

    #[test]
    fn cores_that_others_have_leave_map_unknown() {
        // 719.6 ms of CPU time in 774.6 ms, where `map` took 1018.
        let busy = MapStats {
            elapsed: Duration::from_micros(774_600),
            cpu: Duration::from_micros(719_600),
            wall: 1500 * MS,
            queued: Some(780 * MS),
            waited: 770 * MS,
            ..MapStats::example()
        };
        let line = closing_line(&busy, "local");
        assert!(!line.contains("sense") && !line.contains("would take about"), "{line}");
        assert!(line.ends_with("the workers waited 52 % of their time for a core"), "{line}");
        // Both workers on one core: each second of the clock is half a second of work.
        let pinned = MapStats {
            elapsed: 9200 * MS,
            cpu: 9100 * MS,
            wall: 18_300 * MS,
            queued: Some(9150 * MS),
            waited: 9190 * MS,
            ..MapStats::example()
        };
        let line = closing_line(&pinned, "local");
        assert!(!line.contains("saved") && line.contains("for a core"), "{line}");
    }

    #[test]
    fn each_reason_for_not_using_it_is_told_apart() {
        let micros = Duration::from_micros;
        let cheap = MapStats {
            elapsed: micros(500),
            waited: micros(300),
            beginning: micros(100),
            cpu: micros(74),
            wall: micros(74),
            queued: Some(Duration::ZERO),
            ..MapStats::example()
        };
        let line = closing_line(&cheap, "local");
        assert!(
            line.contains("did not make sense to use fastmap here: an item takes less than 74 ns"),
            "{line}"
        );
        assert!(!line.contains("map would take"), "{line}");

        let work = |cpu: u32| MapStats {
            cpu: cpu * MS,
            wall: cpu * MS,
            queued: Some(Duration::ZERO),
            ..MapStats::example()
        };
        let context = MapStats { beginning: 100 * MS, first: Some(700 * MS), waited: 890 * MS, ..work(500) };
        let line = closing_line(&context, "local");
        assert!(line.contains("did not make sense"), "{line}");
        assert!(line.ends_with("700.0 ms of the 1.00 s went by until a worker was ready"), "{line}");
        assert!(!line.contains("other programs"), "{line}");
        let alone = MapStats { workers: 1, ..work(980) };
        assert!(closing_line(&alone, "local").contains("one worker is not faster than none"));
        let slow = MapStats { waited: Duration::ZERO, ..work(20) };
        assert!(closing_line(&slow, "local").contains("; most of the time went into reading the input"));
        let unclear = closing_line(&work(900), "local");
        assert!(
            unclear.contains("did not make sense to use fastmap here: map would take about 90"),
            "{unclear}"
        );
    }

    #[test]
    fn what_is_certain_is_told_without_a_figure() {
        let unsteady = MapStats { steady: false, elapsed: 250 * MS, waited: 240 * MS, ..MapStats::example() };
        let line = closing_line(&unsteady, "local");
        assert!(line.contains("; saved at least 62") && line.ends_with(" ms (3.5x)"), "{line}");
        let asleep = closing_line(&MapStats { cpu: MS, ..MapStats::example() }, "local");
        assert!(asleep.ends_with("(1000/s, local)"), "{asleep}");
    }

    #[test]
    fn failed_items_are_counted_and_compared_with_nothing() {
        let line =
            closing_line(&MapStats { failed: 2, deaths: 1, complete: false, ..MapStats::example() }, "local");
        assert!(line.ends_with("(1000/s, local, 2 failed, 1 worker lost, not read to the end)"), "{line}");
    }

    #[test]
    fn what_was_paid_is_told_to_the_millionth() {
        let line = |balance| {
            let paid = Receipt { microcredits: 5_417, balance };
            closing_line(&MapStats { paid, ..MapStats::example() }, "cloud")
        };
        let text = line(None);
        assert!(
            text.starts_with("1000 items in 1.00 s (1000/s, cloud, 0.005417 credits); the items"),
            "{text}"
        );
        let text = line(Some(2_500_000));
        assert!(text.contains(", cloud, 0.005417 credits, 2.5 left); the items"), "{text}");
    }

    #[test]
    fn cores_elsewhere_say_nothing_of_map_here() {
        let paid = Receipt { microcredits: 1, balance: None };
        let far =
            MapStats { workers: 8, cores: 1, paid, wall: 8000 * MS, cpu: 7800 * MS, ..MapStats::example() };
        let line = closing_line(&far, "cloud");
        assert!(line.ends_with("; the items took its workers 8.00 s in all"), "{line}");
        let slow = MapStats { cpu: 500 * MS, wall: 500 * MS, ..far };
        assert!(closing_line(&slow, "cloud").contains("the policy local may be as fast"), "{slow:?}");
    }

    #[test]
    fn what_a_service_saved_is_told_against_this_machine_alone() {
        let line = |alone| closing_line(&MapStats { alone: Some(alone), ..MapStats::example() }, "adaptive");
        assert_eq!(
            line(Duration::from_millis(2500)),
            "1000 items in 1.00 s (1000/s, adaptive); without the service this machine would have taken about 2.50 s: it \
             saved 1.50 s (2.5x)"
        );
        assert!(line(Duration::from_millis(1020)).ends_with("about 1.02 s: it saved next to nothing"));
    }
}
