//! When to pull an input that may wait for something (a pipe, a channel): results that are there, or will be
//! in a moment, should not wait for it. Pure: the adapter reports how long pulls and waits took.
//!
//! A map can't see whether `next` of an input will wait. It is careful with an input that does not promise a
//! further item (its size may be 0), until a few items have come at once, and with each input after one pull
//! that took long. It then gives the results that are there before it pulls, pulls one item at a time, and
//! waits for a result that is on its way first. What it spends on such waits is bounded by a small share of
//! the time that the input itself has taken.

use std::time::Duration;

/// Part of the time that an input has taken that may be spent on waits for results.
const SHARE: u32 = 16;
/// A pull that took this long was a wait. A user does not notice that a result is late by less.
const WAITED: Duration = Duration::from_millis(20);
/// Time that may be spent on waits before anything is known of an input (counted once there is a worker), and
/// the number of items after which enough is known.
const TRIAL: Duration = Duration::from_millis(25);
const TRIAL_ITEMS: u32 = 16;
/// What may be spent at most, however long an input has waited.
const MOST: Duration = Duration::from_secs(1);
/// A shorter wait is not worth its cost.
const LEAST: Duration = Duration::from_micros(100);

/// How careful the map is with its input.
#[derive(Debug)]
pub(crate) struct Caution {
    /// Time that may be spent on waits for results.
    credit: Duration,
    /// Items that are still to come at once before the input is known.
    trial: u32,
    /// The last pull was a wait.
    slow: bool,
}

impl Caution {
    pub(crate) fn new() -> Self {
        Caution { credit: TRIAL, trial: TRIAL_ITEMS, slow: false }
    }

    /// Whether results are yielded before pulls, and items are pulled one by one. `promised`: the input says
    /// that it has a further item.
    pub(crate) fn is_on(&self, promised: bool) -> bool {
        // In the trial a promise is believed. After it, one wait means caution with any input.
        if self.trial > 0 { !promised } else { self.slow || !self.credit.is_zero() }
    }

    /// How long a result may be waited for now; `expected` is the time that an item takes, if it is known.
    pub(crate) fn patience(&self, expected: Option<Duration>) -> Duration {
        // A result that takes longer would not arrive within the wait.
        let vain = expected.is_some_and(|expected| expected > self.credit);
        if vain { Duration::ZERO } else { self.credit }
    }

    /// A result was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.spend(time);
    }

    /// `items` items were pulled; `longest` is the longest time between two looks at the clock.
    pub(crate) fn pulled(&mut self, items: u32, longest: Duration) {
        self.slow = longest >= WAITED;
        if self.slow {
            // The trial's credit was for an input that was not known; from here on the share counts.
            let before = if self.trial > 0 { Duration::ZERO } else { self.credit };
            self.trial = 0;
            self.credit = (before + longest / SHARE).min(MOST);
        } else if self.trial > 0 {
            self.trial = self.trial.saturating_sub(items);
            if self.trial == 0 {
                self.credit = Duration::ZERO;
            }
        } else {
            // The credit of an input that does not wait any more decays, so that batches come back.
            self.spend(self.credit / 8);
        }
    }

    fn spend(&mut self, time: Duration) {
        self.credit = self.credit.saturating_sub(time);
        if self.credit < LEAST {
            self.credit = Duration::ZERO;
            // Without credit no result is waited for: the trial, and with it pulling items one by one, is
            // over.
            self.trial = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(1);

    #[test]
    fn what_promises_items_is_trusted_until_it_waits() {
        let mut caution = Caution::new();
        assert!(!caution.is_on(true) && caution.is_on(false));
        caution.pulled(1000, QUICK);
        assert!(!caution.is_on(true) && !caution.is_on(false));
        caution.pulled(1, Duration::from_secs(2));
        assert!(caution.is_on(true) && caution.is_on(false));
    }

    #[test]
    fn a_few_quick_items_end_the_trial() {
        let mut caution = Caution::new();
        for _ in 0..TRIAL_ITEMS {
            assert!(caution.is_on(false));
            caution.waited(QUICK);
            caution.pulled(1, QUICK);
        }
        assert!(!caution.is_on(false));
        assert_eq!(caution.patience(None), Duration::ZERO);
    }

    #[test]
    fn waits_cost_no_more_than_their_share_of_what_the_input_took() {
        let mut caution = Caution::new();
        let (mut input, mut waited) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..100 {
            let pull = Duration::from_millis(100);
            caution.pulled(1, pull);
            input += pull;
            while !caution.patience(None).is_zero() {
                let wait = caution.patience(None);
                caution.waited(wait);
                waited += wait;
            }
        }
        assert!(waited <= input / SHARE, "{waited:?} of {input:?}");
        assert!(waited >= input / SHARE / 2, "{waited:?} of {input:?}");
    }

    #[test]
    fn a_result_that_takes_longer_than_may_be_spent_is_not_waited_for() {
        let mut caution = Caution::new();
        caution.pulled(1, Duration::from_secs(2));
        assert_eq!(caution.patience(Some(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(caution.patience(Some(Duration::from_millis(5))), Duration::from_millis(125));
    }

    #[test]
    fn a_burst_after_a_wait_is_soon_pulled_as_ever() {
        let mut caution = Caution::new();
        caution.pulled(1, Duration::from_secs(60));
        let careful = (0..1000).take_while(|_| {
            caution.pulled(1, QUICK);
            caution.is_on(false)
        });
        assert!((20..200).contains(&careful.count()));
    }
}
