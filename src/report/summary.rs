//! The closing line of a map: a pure function of its account, tested without a map.

use std::fmt::Write as _;
use std::time::Duration;

use fastmap_backends::{Receipt, counted, credits, in_credits};

use crate::error::ErrorKind;

/// A saving below this share of the time is none.
const WORTH: f64 = 1.05;
/// Below this an item is too cheap for any process.
const CHEAP: Duration = Duration::from_micros(2);

/// In less work than this the start of the workers is felt.
const SHORT: Duration = Duration::from_millis(50);

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
    pub(crate) elapsed: Duration,
    /// Time of the items in the workers: on the clock, and of the CPU.
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// Time in which the consumer waited for results.
    pub(crate) waited: Duration,
    pub(crate) workers: usize,
    pub(crate) cores: usize,
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
    /// What the items would have taken one after another: their CPU time, unless they spent most of their time asleep.
    /// Workers that outnumber the cores wait for each other, and for whatever else the machine does, which stretches
    /// the clock only.
    fn serial(&self) -> Duration {
        // What is paid for has its cores elsewhere.
        let cores = if self.is_paid() { self.workers } else { self.cores };
        let crowd = (self.workers as f64 / cores.max(1) as f64).max(1.0);
        let busy = self.cpu.mul_f64(crowd * 2.0);
        let all = if self.wall <= busy { self.cpu } else { self.wall };
        all.mul_f64(self.by_workers() as f64 / self.answered.max(1) as f64)
    }

    fn is_paid(&self) -> bool {
        self.paid.microcredits > 0
    }

    /// Items that were delivered and not done by the calling thread.
    fn by_workers(&self) -> u64 {
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
        if self.answered == 0 && self.here > 0 {
            return line + ": too little work for processes";
        }
        // Nobody knows what the items from the checkpoint took.
        if self.answered == 0 || self.by_workers() == 0 || self.recalled > 0 {
            return line;
        }
        if let Some(alone) = self.alone {
            return line + &self.by_the_service(alone);
        }
        let serial = self.serial();
        // What the program did itself while it did not wait, it would have done beside `map` as well.
        let map = serial + self.elapsed.saturating_sub(self.waited);
        if map.as_secs_f64() > seconds * WORTH {
            return line
                + &format!(
                    "; map would take about {}: saved {} ({:.1}x)",
                    time(map),
                    time(map.saturating_sub(self.elapsed)),
                    map.as_secs_f64() / seconds
                );
        }
        let item = serial.div_f64(self.by_workers() as f64);
        let why = if item < CHEAP {
            format!("An item takes about {}: give each one more work, or use Iterator::map", time(item))
        } else if self.waited < self.elapsed / 2 {
            "Most of the time went into reading the input and using the results, which happens in this thread"
                .to_owned()
        } else if self.is_paid() {
            format!(
                "All of the work was {}, which the service's workers did no sooner: use the policy local",
                time(serial)
            )
        } else if self.workers == 1 {
            "One worker is not faster than none, but the program survives what happens in it".to_owned()
        } else if serial < SHORT {
            format!("All of the work was {}: starting workers costs milliseconds", time(serial))
        } else {
            format!(
                "All of the work was {}, for which {} workers should take less: had other programs the cores?",
                time(serial),
                self.workers
            )
        };
        line + &format!(
            "; it did not make sense to use fastmap here: map would take about {}. {why}",
            time(map)
        )
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
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            delivered: 1000,
            failed: 0,
            deaths: 0,
            recalled: 0,
            answered: 1000,
            here: 0,
            elapsed: Duration::from_secs(1),
            wall: Duration::from_secs(2),
            cpu: Duration::from_millis(1950),
            waited: Duration::from_millis(990),
            workers: 2,
            cores: 2,
            paid: Receipt::default(),
            alone: None,
            complete: true,
            ended_by: None,
        }
    }

    #[test]
    fn a_map_that_paid_off_says_what_was_saved() {
        let line = account().closing_line("local");
        assert_eq!(
            line,
            "1000 items in 1.00 s (1000/s, local); map would take about 1.96 s: saved 960.0 ms (2.0x)"
        );
    }

    #[test]
    fn a_map_that_could_not_go_on_says_by_what_error() {
        let ended = Account {
            delivered: 0,
            answered: 0,
            complete: false,
            ended_by: Some(ErrorKind::NotEntered),
            ..account()
        };
        assert_eq!(ended.closing_line(""), "0 items in 1.00 s (0/s, ended by an error: NotEntered)");
    }

    #[test]
    fn workers_that_wait_for_each_other_do_not_count_as_work() {
        let crowded = Account { workers: 6, wall: Duration::from_secs(6), ..account() };
        assert!(crowded.closing_line("local").contains("map would take about 1.96 s"));
        let asleep = Account { wall: Duration::from_secs(2), cpu: Duration::ZERO, ..account() };
        assert!(asleep.closing_line("local").contains("map would take about 2.01 s"));
    }

    #[test]
    fn each_reason_for_not_using_it_is_told_apart() {
        let cheap = Account { cpu: Duration::from_micros(3), wall: Duration::from_micros(3), ..account() };
        assert!(cheap.closing_line("local").contains("did not make sense to use fastmap here"));
        assert!(cheap.closing_line("local").contains("An item takes about 3 ns"));
        let millis = Duration::from_millis;
        let work = |cpu| Account { cpu: millis(cpu), wall: millis(cpu), ..account() };
        let short = Account { elapsed: millis(40), waited: millis(39), ..work(30) };
        assert!(short.closing_line("local").contains("All of the work was 30.0 ms: starting workers"));
        assert!(work(900).closing_line("local").contains("had other programs the cores?"));
        let slow = Account {
            waited: Duration::ZERO,
            cpu: Duration::from_millis(20),
            wall: Duration::from_millis(20),
            ..account()
        };
        assert!(slow.closing_line("local").contains("using the results"));
    }

    #[test]
    fn what_was_paid_is_told_to_the_millionth() {
        let line = |balance| {
            let paid = Receipt { microcredits: 5_417, balance };
            Account { paid, ..account() }.closing_line("cloud")
        };
        let told = line(None);
        assert!(told.starts_with("1000 items in 1.00 s (1000/s, cloud, 0.005417 credits); map"), "{told}");
        let told = line(Some(2_500_000));
        assert!(told.contains(", cloud, 0.005417 credits, 2.5 left); map"), "{told}");
    }

    #[test]
    fn cores_of_this_machine_say_nothing_of_workers_elsewhere() {
        let far = Account {
            workers: 8,
            cores: 1,
            paid: Receipt { microcredits: 1, balance: None },
            wall: Duration::from_secs(8),
            cpu: Duration::from_millis(7800),
            ..account()
        };
        assert!(far.closing_line("cloud").contains("map would take about 7.81 s"), "{far:?}");
        let slow = Account { cpu: Duration::from_millis(500), wall: Duration::from_secs(1), ..far };
        assert!(slow.closing_line("cloud").contains("use the policy local"), "{slow:?}");
    }

    #[test]
    fn what_a_service_saved_is_told_against_this_machine_alone() {
        let line = |alone| Account { alone: Some(alone), ..account() }.closing_line("adaptive");
        assert_eq!(
            line(Duration::from_millis(2500)),
            "1000 items in 1.00 s (1000/s, adaptive); without the service this machine would have taken about 2.50 s: it \
             saved 1.50 s (2.5x)"
        );
        assert!(line(Duration::from_millis(1020)).ends_with("about 1.02 s: it saved next to nothing"));
    }

    #[test]
    fn failures_deaths_and_an_early_end_are_told() {
        let line = Account { failed: 2, deaths: 1, complete: false, ..account() }.closing_line("local");
        assert!(line.contains("(1000/s, local, 2 failed, 1 worker lost, not read to the end)"), "{line}");
    }
}
