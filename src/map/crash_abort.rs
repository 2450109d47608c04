//! Deaths of a map's workers, and how many of them end the map: pure decisions, tested without processes.
//! Used by the engine.

use fastmap_backends::{ExitReason, WorkerExit};

use crate::error::{Error, ErrorKind};

/// This number of first items, all of which ended their workers in the same way and with the same last words,
/// ends the map: the cause is not in the items.
const FIRST: usize = 8;

/// The deaths of one map.
#[derive(Debug, Default)]
pub(crate) struct CrashAbort {
    /// Deaths since the last answer.
    consecutive: Vec<WorkerExit>,
    /// While no item has lived: the last death that answered an item, and how many such deaths in a row were
    /// equal.
    first: Option<(WorkerExit, usize)>,
    lived: bool,
}

impl CrashAbort {
    /// A worker died.
    pub(crate) fn died(&mut self, death: WorkerExit) {
        self.consecutive.push(death);
    }

    /// Items were answered, by results or by failures.
    pub(crate) fn answered(&mut self) {
        self.consecutive.clear();
        self.lived();
    }

    /// Items were answered, and not by a death: in a worker, in the calling thread or from a checkpoint.
    pub(crate) fn lived(&mut self) {
        self.first = None;
        self.lived = true;
    }

    /// An item was answered by the death of its worker.
    pub(crate) fn settled(&mut self, death: WorkerExit) {
        // An answer by death is an answer: such a map makes progress, an item at a time.
        self.consecutive.clear();
        if !self.lived {
            // Deaths that differ count as the items' own faults: one of another kind starts the count again.
            let before = self.first.take().filter(|(before, _)| before.is_like(&death));
            let equal = before.map_or(1, |(_, equal)| equal + 1);
            // A death from outside says nothing of the items that were answered by it.
            self.first = is_its_own(&death.cause).then_some((death, equal));
        }
    }

    /// # Errors
    /// If more workers died without a single answer than suspects explain: each worker may die of a suspect
    /// of its own, and each suspect is tried once more (or three times, see `split_after_crash`), and as often as the
    /// user wants, before it is answered. Or if none of the first items has lived.
    pub(crate) fn check(&self, workers: usize, retries: u32) -> Result<(), Error> {
        let ended = |message: String, death: &WorkerExit| {
            Err(Error::new(ErrorKind::AllWorkersDied, message).with_source(death.clone()))
        };
        if let Some((death, equal)) = &self.first
            && *equal >= FIRST
        {
            return ended(
                format!(
                    "none of the first {equal} items has lived, and each has ended its workers with the same words; \
                     the last: {death}"
                ),
                death,
            );
        }
        match self.consecutive.last() {
            Some(last)
                if self.consecutive.len()
                    // 4 is the most that `losses` lets processes die of one item; retries come on top.
                    > (workers + 1).saturating_mul(retries.saturating_add(4) as usize) =>
            {
                let listed: Vec<String> =
                    self.consecutive.iter().rev().take(5).map(ToString::to_string).collect();
                let dead = self.consecutive.len();
                ended(
                    format!(
                        "{dead} workers died in a row without one answer; the last: {}",
                        listed.join("; ")
                    ),
                    last,
                )
            }
            _ => Ok(()),
        }
    }
}

/// Whether the process has ended itself: not its host, nor an operator, nor the memory killer.
fn is_its_own(cause: &ExitReason) -> bool {
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    match cause {
        ExitReason::Exit(_) => true,
        // Operators and the memory killer send these two.
        ExitReason::Signal(number) => ![SIGKILL, SIGTERM].contains(number),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(cause: ExitReason) -> WorkerExit {
        WorkerExit {
            worker: "w".to_owned(),
            pid: 1,
            cause,
            refused: None,
            stderr: vec!["no module".to_owned()],
        }
    }

    fn settled(deaths: &mut CrashAbort, causes: impl Iterator<Item = ExitReason>) {
        causes.for_each(|cause| deaths.settled(death(cause)));
    }

    #[test]
    fn a_map_none_of_whose_first_items_lives_ends_with_that_reason() {
        let mut deaths = CrashAbort::default();
        settled(&mut deaths, std::iter::repeat_n(ExitReason::Exit(1), FIRST - 1));
        assert!(deaths.check(2, 0).is_ok());
        settled(&mut deaths, [ExitReason::Exit(1)].into_iter());
        let error = deaths.check(2, 0).expect_err("they are enough");
        assert_eq!(error.kind(), ErrorKind::AllWorkersDied);
        assert!(error.to_string().contains("exit(1); it last wrote: no module"), "{error}");
    }

    #[test]
    fn items_that_differ_or_that_were_ended_or_that_come_behind_one_that_lived_are_on_their_own() {
        let mut deaths = CrashAbort::default();
        settled(&mut deaths, (0..100).map(ExitReason::Exit));
        for _ in 0..100 {
            deaths.settled(WorkerExit { stderr: Vec::new(), ..death(ExitReason::Signal(6)) });
        }
        settled(&mut deaths, std::iter::repeat_n(ExitReason::Signal(9), 100));
        settled(
            &mut deaths,
            std::iter::repeat_n(ExitReason::Timeout(std::time::Duration::from_secs(1)), 100),
        );
        assert!(deaths.check(2, 0).is_ok());
        deaths.answered();
        settled(&mut deaths, std::iter::repeat_n(ExitReason::Exit(1), 100));
        assert!(deaths.check(2, 0).is_ok());
    }

    #[test]
    fn many_deaths_without_an_answer_end_the_map() {
        let mut deaths = CrashAbort::default();
        (0..12).for_each(|_| deaths.died(death(ExitReason::Signal(11))));
        assert!(deaths.check(2, 0).is_ok());
        deaths.died(death(ExitReason::Signal(11)));
        assert!(
            deaths.check(2, 0).expect_err("too many").to_string().starts_with("13 workers died in a row")
        );
        assert!(deaths.check(2, 1).is_ok());
    }
}
