//! The closing line of a map: a pure function of its account, tested without a map.

use std::fmt::Write as _;
use std::time::Duration;

use fastmap_backends::{Receipt, counted, credits, in_credits};

use super::estimate::Estimate;
use crate::error::ErrorKind;

/// A saving below this share of the time is none.
const WORTH: f64 = 1.05;
/// Below this an item is too cheap for any process.
const CHEAP: Duration = Duration::from_micros(2);
/// A start that takes this share of the map is why it was not faster.
const LONG_START: f64 = 0.3;

/// What a map did and what it took.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    pub(crate) deaths: u64,
    /// Items answered from a checkpoint.
    pub(crate) recalled: u64,
    /// Items answered by workers, and by the calling thread; more than were delivered where the consumer left early.
    pub(crate) answered: u64,
    pub(crate) here: u64,
    /// Items that a service answered.
    pub(crate) cloud: u64,
    /// Tries of items that failed.
    pub(crate) failed_tries: u64,
    pub(crate) elapsed: Duration,
    /// Time of the items in the workers: on the clock, and of the CPU.
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// Time in which workers were ready to run and had no core; `None`: not all of them know.
    pub(crate) queued: Option<Duration>,
    /// Items and results are bytes of a fixed size.
    pub(crate) plain: bool,
    /// Bytes that went to the workers and came back.
    pub(crate) bytes: u64,
    /// Time that the map took for its own beginning: encoding the context, starting the workers.
    pub(crate) beginning: Duration,
    /// From the map's begin to that of the first item that was answered.
    pub(crate) first: Option<Duration>,
    /// Time in which the consumer waited for results.
    pub(crate) waited: Duration,
    pub(crate) workers: usize,
    pub(crate) cores: usize,
    /// A core is as fast beside busy ones as alone.
    pub(crate) steady: bool,
    /// What was paid for it.
    pub(crate) paid: Receipt,
    /// What it would have taken on this machine alone, where a service took part.
    pub(crate) alone: Option<Duration>,
    /// The input was read to its end.
    pub(crate) complete: bool,
    /// The error after which the map could not go on.
    pub(crate) ended_by: Option<ErrorKind>,
}

impl Account {
    fn is_paid(&self) -> bool {
        self.paid.microcredits > 0
    }

    /// Items that were delivered and not done by the calling thread.
    pub(super) fn by_workers(&self) -> u64 {
        self.delivered.saturating_sub(self.here)
    }

    /// What the service was good for, against this machine alone: without it `map` was no alternative, but LOCAL.
    fn by_the_service(&self, alone: Duration) -> String {
        let (seconds, alone_seconds) = (self.elapsed.as_secs_f64(), alone.as_secs_f64());
        let saved = match alone_seconds > seconds * WORTH {
            true => format!(
                "it saved {} ({:.1}x)",
                time(alone.saturating_sub(self.elapsed)),
                alone_seconds / seconds.max(1e-9)
            ),
            false => "it saved next to nothing".to_owned(),
        };
        format!("; without the service this machine would have taken about {}: {saved}", time(alone))
    }

    /// One line, without the map's label.
    pub(crate) fn closing_line(&self, backend: &str) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let rate = self.delivered as f64 / seconds.max(1e-9);
        let mut line = format!("{} in {} ({rate:.0}/s", counted(self.delivered, "item"), time(self.elapsed));
        if !backend.is_empty() {
            let _infallible = write!(line, ", {backend}");
        }
        let recalled = (self.recalled, format!("{} from the checkpoint", self.recalled));
        let failed = (self.failed, format!("{} failed", self.failed));
        let lost = (self.deaths, format!("{} lost", counted(self.deaths, "worker")));
        for (count, told) in [recalled, failed, lost] {
            if count > 0 {
                let _infallible = write!(line, ", {told}");
            }
        }
        if self.is_paid() {
            let _infallible = write!(line, ", {}", in_credits(self.paid.microcredits as i64));
            if let Some(balance) = self.paid.balance {
                let _infallible = write!(line, ", {} left", credits(balance));
            }
        }
        if let Some(kind) = self.ended_by {
            let _infallible = write!(line, ", ended by an error: {kind:?}");
        } else if !self.complete {
            line += ", not read to the end";
        }
        line.push(')');
        line + &self.verdict(backend)
    }

    /// Whether it made sense, as far as what was measured tells.
    fn verdict(&self, backend: &str) -> String {
        if self.ended_by.is_some() {
            return String::new();
        }
        if self.answered == 0 && self.here > 0 {
            return ": too little work for processes".to_owned();
        }
        // Nobody knows what the items from the checkpoint took.
        if self.answered == 0 || self.by_workers() == 0 || self.recalled > 0 {
            return String::new();
        }
        if let Some(alone) = self.alone {
            return self.by_the_service(alone);
        }
        if self.is_paid() {
            return self.in_the_service();
        }
        // The workers of another backend may be on other machines.
        let estimate = Estimate::of(self).filter(|_| matches!(backend, "local" | "adaptive"));
        estimate.map_or_else(String::new, |estimate| self.against_map(&estimate))
    }

    /// What the service's workers computed. They are not this machine's, so that it tells nothing of `map`.
    fn in_the_service(&self) -> String {
        let items = format!("; the items took its workers {}", time(self.wall));
        match self.wall < self.elapsed {
            true => items + " in all, less than the map: the policy local may be as fast",
            false => items + " in all",
        }
    }

    /// The figure, if there is one; what is certain without it.
    fn against_map(&self, estimate: &Estimate) -> String {
        let Estimate { map, least, most, held_up } = *estimate;
        let saved = |from: Duration| {
            let times = from.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9);
            format!("{} ({times:.1}x)", time(from.saturating_sub(self.elapsed)))
        };
        match map {
            Some(map) if map > self.elapsed.mul_f64(WORTH) => {
                return format!("; map would take about {}: saved {}", time(map), saved(map));
            }
            None if least > self.elapsed.mul_f64(WORTH) => {
                return format!("; saved at least {}", saved(least));
            }
            _ => {}
        }
        let why = self.why_not();
        match (map, held_up) {
            (Some(map), _) => {
                let map = format!("map would take about {}. {why}", time(map));
                format!("; it did not make sense to use fastmap here: {}", map.trim_end_matches(". "))
            }
            (None, _) if most < self.elapsed => {
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
    fn why_not(&self) -> String {
        let item = self.wall.div_f64(self.answered.max(1) as f64);
        let first = self.first.unwrap_or_default();
        if item < CHEAP {
            format!("an item takes less than {}: give each one more work, or use Iterator::map", time(item))
        } else if self.waited < self.elapsed / 2 && self.beginning < self.elapsed / 2 {
            "most of the time went into reading the input, sending the items and using the results, which happens in \
             this thread"
                .to_owned()
        } else if self.workers == 1 {
            "one worker is not faster than none, but the program survives what happens in it".to_owned()
        } else if first.as_secs_f64() > LONG_START * self.elapsed.as_secs_f64() {
            format!("{} of the {} went by until a worker was ready", time(first), time(self.elapsed))
        } else {
            String::new()
        }
    }
}

/// Whole seconds, as hours and minutes where there are any.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// A duration for people.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.1} µs", s * 1e6),
        s => format!("{:.0} ns", s * 1e9),
    }
}

#[cfg(test)]
impl Account {
    /// A thousand items of 2 ms on two workers, with nothing in the way.
    pub(crate) fn example() -> Account {
        Account {
            delivered: 1000,
            failed: 0,
            deaths: 0,
            recalled: 0,
            answered: 1000,
            here: 0,
            cloud: 0,
            failed_tries: 0,
            elapsed: Duration::from_secs(1),
            wall: Duration::from_secs(2),
            cpu: Duration::from_millis(1950),
            queued: Some(Duration::from_millis(40)),
            plain: true,
            bytes: 16_000,
            beginning: Duration::from_millis(1),
            first: Some(Duration::from_millis(5)),
            waited: Duration::from_millis(990),
            workers: 2,
            cores: 2,
            steady: true,
            paid: Receipt::default(),
            alone: None,
            complete: true,
            ended_by: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_map_that_paid_off_says_what_was_saved() {
        let line = Account::example().closing_line("local");
        let (figures, saved) = line.split_once(": saved ").expect("it paid off");
        assert_eq!(figures, "1000 items in 1.00 s (1000/s, local); map would take about 1.96 s");
        assert!(saved.starts_with("95") && saved.ends_with(" ms (2.0x)"), "{line}");
    }

    #[test]
    fn a_map_that_could_not_go_on_says_by_what_error_and_compares_with_nothing() {
        let ended = Account { complete: false, ended_by: Some(ErrorKind::NotEntered), ..Account::example() };
        let none = Account { delivered: 0, answered: 0, ..ended.clone() };
        assert_eq!(none.closing_line(""), "0 items in 1.00 s (0/s, ended by an error: NotEntered)");
        for kind in [ErrorKind::Declined, ErrorKind::OutOfCredits] {
            // An estimate's items were done here; nothing was sent.
            let few =
                Account { ended_by: Some(kind), delivered: 8, answered: 20, wall: 9 * MS, ..ended.clone() };
            let line = few.closing_line("cloud");
            assert!(line.ends_with(&format!("ended by an error: {kind:?})")), "{line}");
            let alone = Account { alone: Some(9000 * MS), ..few };
            assert!(alone.closing_line("adaptive").ends_with(&format!("ended by an error: {kind:?})")));
        }
    }

    #[test]
    fn cores_that_others_have_leave_map_unknown() {
        // 719.6 ms of CPU time in 774.6 ms, where `map` took 1018.
        let busy = Account {
            elapsed: Duration::from_micros(774_600),
            cpu: Duration::from_micros(719_600),
            wall: 1500 * MS,
            queued: Some(780 * MS),
            waited: 770 * MS,
            ..Account::example()
        };
        let line = busy.closing_line("local");
        assert!(!line.contains("sense") && !line.contains("would take about"), "{line}");
        assert!(line.ends_with("the workers waited 52 % of their time for a core"), "{line}");
        // Both workers on one core: each second of the clock is half a second of work.
        let pinned = Account {
            elapsed: 9200 * MS,
            cpu: 9100 * MS,
            wall: 18_300 * MS,
            queued: Some(9150 * MS),
            waited: 9190 * MS,
            ..Account::example()
        };
        let line = pinned.closing_line("local");
        assert!(!line.contains("saved") && line.contains("for a core"), "{line}");
    }

    #[test]
    fn each_reason_for_not_using_it_is_told_apart() {
        let micros = Duration::from_micros;
        let cheap = Account {
            elapsed: micros(500),
            waited: micros(300),
            beginning: micros(100),
            cpu: micros(74),
            wall: micros(74),
            queued: Some(Duration::ZERO),
            ..Account::example()
        };
        let line = cheap.closing_line("local");
        assert!(
            line.contains("did not make sense to use fastmap here: an item takes less than 74 ns"),
            "{line}"
        );
        assert!(!line.contains("map would take"), "{line}");

        let work = |cpu: u32| Account {
            cpu: cpu * MS,
            wall: cpu * MS,
            queued: Some(Duration::ZERO),
            ..Account::example()
        };
        let context = Account { beginning: 100 * MS, first: Some(700 * MS), waited: 890 * MS, ..work(500) };
        let line = context.closing_line("local");
        assert!(line.contains("did not make sense"), "{line}");
        assert!(line.ends_with("700.0 ms of the 1.00 s went by until a worker was ready"), "{line}");
        assert!(!line.contains("other programs"), "{line}");
        let alone = Account { workers: 1, ..work(980) };
        assert!(alone.closing_line("local").contains("one worker is not faster than none"));
        let slow = Account { waited: Duration::ZERO, ..work(20) };
        assert!(slow.closing_line("local").contains("; most of the time went into reading the input"));
        let unclear = work(900).closing_line("local");
        assert!(
            unclear.contains("did not make sense to use fastmap here: map would take about 90"),
            "{unclear}"
        );
    }

    #[test]
    fn what_is_certain_is_told_without_a_figure() {
        let unsteady = Account { steady: false, elapsed: 250 * MS, waited: 240 * MS, ..Account::example() };
        let line = unsteady.closing_line("local");
        assert!(line.contains("; saved at least 62") && line.ends_with(" ms (3.5x)"), "{line}");
        let asleep = Account { cpu: MS, ..Account::example() }.closing_line("local");
        assert!(asleep.ends_with("(1000/s, local)"), "{asleep}");
    }

    #[test]
    fn failed_items_are_counted_and_compared_with_nothing() {
        let line =
            Account { failed: 2, deaths: 1, complete: false, ..Account::example() }.closing_line("local");
        assert!(line.ends_with("(1000/s, local, 2 failed, 1 worker lost, not read to the end)"), "{line}");
    }

    #[test]
    fn what_was_paid_is_told_to_the_millionth() {
        let line = |balance| {
            let paid = Receipt { microcredits: 5_417, balance };
            Account { paid, ..Account::example() }.closing_line("cloud")
        };
        let told = line(None);
        assert!(
            told.starts_with("1000 items in 1.00 s (1000/s, cloud, 0.005417 credits); the items"),
            "{told}"
        );
        let told = line(Some(2_500_000));
        assert!(told.contains(", cloud, 0.005417 credits, 2.5 left); the items"), "{told}");
    }

    #[test]
    fn cores_elsewhere_say_nothing_of_map_here() {
        let paid = Receipt { microcredits: 1, balance: None };
        let far =
            Account { workers: 8, cores: 1, paid, wall: 8000 * MS, cpu: 7800 * MS, ..Account::example() };
        let line = far.closing_line("cloud");
        assert!(line.ends_with("; the items took its workers 8.00 s in all"), "{line}");
        let slow = Account { cpu: 500 * MS, wall: 500 * MS, ..far };
        assert!(slow.closing_line("cloud").contains("the policy local may be as fast"), "{slow:?}");
    }

    #[test]
    fn what_a_service_saved_is_told_against_this_machine_alone() {
        let line = |alone| Account { alone: Some(alone), ..Account::example() }.closing_line("adaptive");
        assert_eq!(
            line(Duration::from_millis(2500)),
            "1000 items in 1.00 s (1000/s, adaptive); without the service this machine would have taken about 2.50 s: it \
             saved 1.50 s (2.5x)"
        );
        assert!(line(Duration::from_millis(1020)).ends_with("about 1.02 s: it saved next to nothing"));
    }
}
