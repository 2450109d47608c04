//! Starts of workers, from the moment that work asks for one until its process runs or could not be started.
//! A worker is requested, then starting, then has a [`WorkerHandle`](super::worker_handle::WorkerHandle). Changed under
//! the pool's lock.

use std::ops::Range;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::model::death::WorkerExit;

/// Workers that may die in a row before their handshake, or without having run anything, before runs are ended.
const FAILED_STARTS: usize = 3;
/// What the system refuses now (processes, memory, descriptors) it may give in a moment.
const RETRY: Duration = Duration::from_millis(20);
/// A start is tried that often while the map goes on with other workers.
const RETRY_BESIDE_OTHERS: Duration = Duration::from_secs(1);

/// Whether a limit of the system kept workers from being started.
#[derive(Debug, Default, PartialEq, Eq)]
enum Shortage {
    #[default]
    Unseen,
    /// Which, in words.
    Seen(String),
    /// And the user was warned.
    Reported,
}

/// Workers that are on their way, and those that never came.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Workers asked for, whose start has not begun.
    requested: usize,
    /// Workers that are being started.
    starting: usize,
    /// Workers that were begun to be started, ever.
    named: u64,
    /// The threads of those, which end with them.
    threads: Vec<JoinHandle<()>>,
    /// Workers that died in a row without having run anything.
    in_a_row: Vec<WorkerExit>,
    /// Such deaths in all, and the last of them, for a caller that waits for a first worker.
    failures: u64,
    last_failure: Option<WorkerExit>,
    /// No worker is started before.
    not_before: Option<Instant>,
    shortage: Shortage,
}

impl Starts {
    /// Workers that are requested or being started.
    pub(crate) fn underway(&self) -> usize {
        self.requested + self.starting
    }

    /// Workers that are being started.
    pub(crate) fn starting(&self) -> usize {
        self.starting
    }

    /// Failures so far, for [`Starts::failure_since`].
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// There is work for so many more workers.
    pub(crate) fn on_wanted(&mut self, workers: usize) {
        self.requested += workers;
    }

    /// The supervisor begins starts: the numbers of the workers, at most `abreast` at a time.
    pub(crate) fn on_begin(&mut self, abreast: usize, now: Instant) -> Range<u64> {
        let first = self.named + 1;
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return first..first;
        }
        // Where a start has failed, those of several could take from each other what is scarce.
        let calm = self.in_a_row.is_empty() && self.shortage == Shortage::Unseen;
        let abreast = if calm { abreast } else { abreast.min(1) };
        // What is not begun stays requested: each start that ends wakes the supervisor, which comes back
        // here.
        let begun = self.requested.min(abreast.saturating_sub(self.starting));
        self.requested -= begun;
        self.starting += begun;
        self.named += begun as u64;
        first..first + begun as u64
    }

    /// A start has got its thread.
    pub(crate) fn on_thread(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }

    /// A worker's process has started.
    pub(crate) fn on_spawned(&mut self) {
        self.starting -= 1;
    }

    /// So many workers could not be started.
    pub(crate) fn on_not_started(&mut self, workers: usize) {
        self.starting -= workers;
    }

    /// A limit of the system kept workers from being started, while others run.
    pub(crate) fn on_short(&mut self, limit: String, now: Instant) {
        if self.shortage == Shortage::Unseen {
            self.shortage = Shortage::Seen(limit);
        }
        self.not_before = Some(now + RETRY_BESIDE_OTHERS);
    }

    /// A worker has answered: what failed before says nothing any more.
    pub(crate) fn on_answer(&mut self) {
        self.in_a_row.clear();
    }

    /// A worker ended without having run anything. `hopeful`: others work, or may. Returns the failures in a row where
    /// they are too many for any run to go on.
    pub(crate) fn on_failure(
        &mut self,
        death: WorkerExit,
        hopeful: bool,
        now: Instant,
    ) -> Option<Vec<WorkerExit>> {
        self.failures += 1;
        self.last_failure = Some(death.clone());
        self.in_a_row.push(death);
        if self.in_a_row.len() < FAILED_STARTS {
            // What the system refuses now it may give in a moment; a second failure is given twice the time.
            self.not_before = Some(now + RETRY * self.in_a_row.len() as u32);
            return None;
        }
        // Those that come up may be luckier; or end the same way, and are counted then.
        if hopeful || self.starting > 0 {
            // One below the bound, so that the next failure is decided about again: the other workers may be
            // gone by then.
            self.in_a_row.remove(0);
            self.not_before = Some(now + RETRY_BESIDE_OTHERS);
            return None;
        }
        Some(std::mem::take(&mut self.in_a_row))
    }

    /// The last failure, if there were more than `before`. What failed is asked for again when there is work.
    pub(crate) fn failure_since(&mut self, before: u64) -> Option<WorkerExit> {
        // The caller reports this failure. It must not count against the next map, which asks for a worker
        // anew.
        let last = if self.failures == before { None } else { self.last_failure.take() };
        if last.is_some() {
            self.in_a_row.clear();
        }
        last
    }

    /// Warns once that there are fewer workers than were asked for, as soon as it is known how many there are.
    pub(crate) fn warning(&mut self, workers: usize, wanted: usize) -> Option<String> {
        if self.starting > 0 || !matches!(self.shortage, Shortage::Seen(_)) {
            return None;
        }
        let Shortage::Seen(limit) = std::mem::replace(&mut self.shortage, Shortage::Reported) else {
            return None;
        };
        Some(format!(
            "fastmap: warning: only {workers} of {wanted} workers can run: {limit}, or ask for fewer workers \
             (FASTMAP_LOCAL_PROCESSES)\n"
        ))
    }

    /// How soon a start may be tried that is waiting for that.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let not_before = self.not_before.filter(|not_before| self.requested > 0 && *not_before > now)?;
        Some(not_before.duration_since(now).max(Duration::from_millis(1)))
    }

    /// Forgets the threads of workers that are gone.
    pub(crate) fn forget_ended_threads(&mut self) {
        self.threads.retain(|thread| !thread.is_finished());
    }

    /// All threads, to be waited for.
    pub(crate) fn take_threads(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::death::ExitReason;

    fn death() -> WorkerExit {
        let (cause, worker) = (ExitReason::Exit(1), "worker-1".to_owned());
        WorkerExit { worker, pid: 1, cause, refused: None, stderr: Vec::new() }
    }

    #[test]
    fn workers_start_abreast_until_one_has_failed() {
        let (mut starts, now) = (Starts::default(), Instant::now());
        starts.on_wanted(5);
        assert_eq!((starts.on_begin(2, now), starts.underway(), starts.starting()), (1..3, 5, 2));
        assert_eq!(starts.on_begin(2, now), 3..3);
        starts.on_spawned();
        assert_eq!(starts.on_begin(2, now), 3..4);
        starts.on_spawned();
        starts.on_not_started(1);
        assert_eq!(starts.on_failure(death(), true, now), None);
        assert_eq!((starts.on_begin(2, now), starts.pause(now)), (4..4, Some(RETRY)));
        assert_eq!(starts.on_begin(2, now + RETRY), 4..5);
        assert_eq!(starts.on_begin(2, now + RETRY), 5..5);
        starts.on_spawned();
        starts.on_answer();
        starts.on_wanted(1);
        assert_eq!(starts.on_begin(2, now + RETRY), 5..7);
    }

    #[test]
    fn failures_in_a_row_end_the_runs_unless_others_work() {
        let (mut starts, now) = (Starts::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(starts.on_failure(death(), true, now), None);
        }
        assert_eq!(starts.on_failure(death(), false, now).map(|deaths| deaths.len()), Some(FAILED_STARTS));
        assert_eq!(starts.on_failure(death(), false, now), None);
        starts.on_answer();
        for _ in 1..FAILED_STARTS {
            assert_eq!(starts.on_failure(death(), false, now), None);
        }
        starts.on_wanted(1);
        starts.on_begin(1, now + RETRY_BESIDE_OTHERS);
        assert_eq!(starts.on_failure(death(), false, now), None, "one comes up that may be luckier");
    }

    #[test]
    fn a_shortage_is_reported_once_and_when_it_is_known_who_runs() {
        let (mut starts, now) = (Starts::default(), Instant::now());
        starts.on_wanted(2);
        starts.on_begin(2, now);
        starts.on_short("a limit".to_owned(), now);
        assert_eq!(starts.warning(1, 2), None);
        starts.on_not_started(2);
        let warning = starts.warning(1, 2).expect("no start is under way");
        assert!(warning.contains("only 1 of 2 workers can run: a limit"), "{warning}");
        starts.on_short("a limit".to_owned(), now);
        assert_eq!(starts.warning(1, 2), None);
    }

    #[test]
    fn a_failure_is_given_once_to_a_caller_that_waits_for_a_first_worker() {
        let (mut starts, now) = (Starts::default(), Instant::now());
        starts.on_failure(death(), false, now);
        let before = starts.failures();
        assert_eq!(starts.failure_since(before), None);
        starts.on_failure(death(), false, now);
        assert_eq!(starts.failure_since(before), Some(death()));
        assert_eq!(starts.failure_since(before), None);
    }
}
