//! What ends a map before its input does: its first failed item, if the user wants that, and its deadline.
//! The engine checks both after each look at the workers.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// What a map does about an item that failed.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::{OnError, prelude::*};
///
/// let inverse = |n: u64| 100 / n;
/// let on: Vec<_> = (0..10).fastmap(inverse).on_error(OnError::KeepGoing).collect();
/// assert_eq!(on.len(), 10);
/// let stopped: Vec<_> = (0..10).fastmap(inverse).on_error(OnError::Stop).collect();
/// assert!(stopped.last().unwrap().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnError {
    /// The item is answered by its error, in its place, and the map goes on.
    #[default]
    KeepGoing,
    /// The map ends: with the error of the first item that is known to have failed, then `None`.
    Stop,
}

/// The limits of one map.
#[derive(Debug, Default)]
pub(crate) struct EarlyStop {
    pub(crate) on_error: OnError,
    pub(crate) deadline: Option<Duration>,
    /// When the deadline is, once the map has begun.
    ends: Option<Instant>,
    /// The failure at which the map stops, until `check` returns it.
    first_failure: Option<Error>,
}

impl EarlyStop {
    /// The map begins now.
    pub(crate) fn begin(&mut self, now: Instant) {
        // A limit that overflows `Instant` (as `Duration::MAX`) never ends the map.
        self.ends = self.deadline.and_then(|limit| now.checked_add(limit));
    }

    pub(crate) fn stops(&self) -> bool {
        self.on_error == OnError::Stop
    }

    /// Whether items that run at the map's end are ended, although no other map waits for their workers.
    pub(crate) fn cancel_running(&self) -> bool {
        self.stops() || self.deadline.is_some()
    }

    /// An item has failed at which the map stops. Of several failures that are known at one look, the
    /// earliest item's is reported.
    pub(crate) fn fail_fast(&mut self, error: Error) {
        let earlier = self.first_failure.as_ref().is_some_and(|known| known.index() <= error.index());
        if !earlier {
            self.first_failure = Some(error);
        }
    }

    /// The end of a wait: the earlier of `look_up` and the map's deadline.
    pub(crate) fn until(&self, look_up: Instant) -> Instant {
        self.ends.map_or(look_up, |ends| ends.min(look_up))
    }

    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// # Errors
    /// What ends the map now: the failed item it stops at, or its deadline, unless all is `answered`.
    pub(crate) fn check(&mut self, answered: bool) -> Result<(), Error> {
        // Taken, because the map ends with it and must report it once.
        if let Some(error) = self.first_failure.take() {
            return Err(error);
        }
        match self.deadline {
            // A consumer may take longer than the deadline to read a map whose items are all answered.
            Some(limit) if !answered && self.is_late() => Err(Error::new(
                ErrorKind::Timeout,
                format!("the map was not over within its deadline of {limit:?}"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(index: u64) -> Error {
        Error::new(ErrorKind::Panic, "x").at(index)
    }

    #[test]
    fn of_several_failures_the_first_item_is_told() {
        for order in [[3, 7], [7, 3]] {
            let mut limits = EarlyStop::default();
            for index in order {
                limits.fail_fast(failed(index));
            }
            assert_eq!(limits.check(false).expect_err("it halts").index(), Some(3));
            assert!(limits.check(false).is_ok(), "told once");
        }
    }

    #[test]
    fn a_deadline_holds_from_the_begin_and_for_what_is_not_answered() {
        let mut limits = EarlyStop { deadline: Some(Duration::ZERO), ..EarlyStop::default() };
        assert!(limits.check(false).is_ok(), "it has not begun");
        let begun = Instant::now();
        limits.begin(begun);
        assert_eq!(limits.until(begun + Duration::from_secs(1)), begun);
        assert!(limits.check(true).is_ok());
        let error = limits.check(false).expect_err("it is late");
        assert_eq!((error.kind(), error.index()), (ErrorKind::Timeout, None));
    }

    #[test]
    fn a_deadline_beyond_all_clocks_is_none() {
        let mut limits = EarlyStop { deadline: Some(Duration::MAX), ..EarlyStop::default() };
        limits.begin(Instant::now());
        assert!(!limits.is_late());
        assert!(limits.check(false).is_ok());
    }
}
