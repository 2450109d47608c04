//! How many answers `next()` yields between two looks at the workers: one if the consumer is slow, many if it
//! takes an answer in nanoseconds, which is less than a look costs.

use std::time::{Duration, Instant};

/// Between two looks at most.
const MOST: u32 = 256;
/// A stretch that took less may be longer.
const SHORT: Duration = Duration::from_micros(20);
/// A stretch that took more must be shorter: a worker may have waited as long.
const LONG: Duration = Duration::from_micros(100);

/// The length of the current stretch, and when it began.
#[derive(Debug)]
pub(crate) struct PollPacer {
    answers: u32,
    begun: Option<Instant>,
}

impl PollPacer {
    pub(crate) fn new() -> Self {
        PollPacer { answers: 1, begun: None }
    }

    /// A stretch is over: how many answers the next one has.
    pub(crate) fn next(&mut self) -> u32 {
        let now = Instant::now();
        // The clock is read once per stretch: its end is the begin of the next one.
        if let Some(begun) = self.begun.replace(now) {
            self.answers = adapted(self.answers, now.duration_since(begun));
        }
        self.answers
    }
}

fn adapted(answers: u32, took: Duration) -> u32 {
    match took {
        took if took < SHORT => (answers * 2).min(MOST),
        // To 1 in one step: the consumer is slower now, and workers may have idled for this whole stretch.
        took if took > LONG => 1,
        _ => answers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_consumer_is_asked_seldom_and_a_slow_one_each_time() {
        let mut answers = 1;
        for _ in 0..20 {
            answers = adapted(answers, Duration::from_nanos(u64::from(answers) * 3));
        }
        assert_eq!(answers, MOST);
        assert_eq!(adapted(answers, Duration::from_micros(50)), MOST);
        assert_eq!(adapted(answers, Duration::from_millis(1)), 1);
        assert_eq!(adapted(1, Duration::from_millis(1)), 1);
    }
}
