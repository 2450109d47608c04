//! What a batch is charged of the CPU time that the kernel has counted for all workers of its run. Called by `pool`.

use std::sync::Arc;
use std::time::Duration;

use fastmap_backends::local::CpuTimes;

use super::launch::Meter;

/// The meter of one run's workers, and how much of what it shows is on a bill.
///
/// The kernel counts for workers, not for batches. All batches of a pool are one run's, which one account pays: whichever
/// is answered takes all that was used since the last one, up to its own limit; the rest is the next one's. What a worker
/// says of itself does not matter.
#[derive(Debug)]
pub(super) struct Metered {
    meter: Option<Arc<dyn Meter>>,
    billed: Duration,
    /// What it showed at the last bill, and what was waived since.
    last: CpuTimes,
    waived: Duration,
}

impl Metered {
    /// What was used until now, for the start of the first worker, is nobody's.
    pub(super) fn new(meter: Option<Arc<dyn Meter>>) -> Self {
        let last = meter.as_ref().map(|meter| meter.cpu()).unwrap_or_default();
        Metered { meter, billed: last.total(), last, waived: Duration::ZERO }
    }

    /// A batch was cancelled that has had a worker for so long, one of so many batches that had one: what it has used since
    /// the last bill is on none. Which worker was its own is not known; those that have used most were the others', lest
    /// one that sleeps and is cancelled pays for one that computes.
    pub(super) fn waive(&mut self, time: Duration, under_way: usize) {
        let Some(meter) = self.meter.as_ref().filter(|_| !time.is_zero()) else { return };
        let now = meter.cpu();
        let mut used = used_since(&self.last, &now);
        used.sort_unstable();
        let theirs = used.len().saturating_sub(under_way.saturating_sub(1));
        let most: Duration = used[..theirs].iter().sum();
        let waived = (self.waived + time).min(most).max(self.waived);
        let more = waived.saturating_sub(self.waived);
        self.billed = (self.billed + more).min(now.total()).max(self.billed);
        self.waived = waived;
    }

    /// The CPU time of a batch that is answered, of which its worker says that it took `said`.
    pub(super) fn bill(&mut self, said: Duration, limit: Duration) -> Duration {
        let Some(meter) = &self.meter else { return said };
        self.last = meter.cpu();
        self.waived = Duration::ZERO;
        let due = self.last.total().saturating_sub(self.billed).min(limit);
        self.billed += due;
        due
    }
}

/// What each worker has used between the two; those that died meanwhile count as one.
fn used_since(last: &CpuTimes, now: &CpuTimes) -> Vec<Duration> {
    let known =
        |number: u64| last.living.iter().find(|(it, _)| *it == number).map_or(Duration::ZERO, |it| it.1);
    let mut used: Vec<Duration> =
        now.living.iter().map(|(number, cpu)| cpu.saturating_sub(known(*number))).collect();
    let lives = |number: u64| now.living.iter().any(|(it, _)| *it == number);
    let before: Duration =
        last.living.iter().filter(|(number, _)| !lives(*number)).map(|(_, cpu)| *cpu).sum();
    used.push(now.dead.saturating_sub(last.dead + before));
    used
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Shows what it is told to.
    #[derive(Debug, Default)]
    struct Shown(Mutex<CpuTimes>);

    impl Meter for Shown {
        fn cpu(&self) -> CpuTimes {
            self.0.lock().expect("nobody panics").clone()
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A meter, and how to make it show seconds of workers 0, 1 and so on.
    fn shown(workers: &[u64]) -> (Metered, impl Fn(&[u64])) {
        let shown = Arc::new(Shown::default());
        let meter = Arc::clone(&shown) as Arc<dyn Meter>;
        let show = move |workers: &[u64]| {
            let living = (0..).zip(workers.iter().map(|cpu| seconds(*cpu))).collect();
            *shown.0.lock().expect("nobody panics") = CpuTimes { living, dead: Duration::ZERO };
        };
        show(workers);
        (Metered::new(Some(meter)), show)
    }

    #[test]
    fn all_that_is_counted_is_billed_once_and_no_batch_pays_more_than_its_limit() {
        let (mut metered, show) = shown(&[3]);
        assert_eq!(metered.bill(seconds(9), seconds(10)), Duration::ZERO);
        show(&[20]);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(10));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(7));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), Duration::ZERO);
    }

    #[test]
    fn what_is_waived_is_billed_to_nobody_and_nothing_is_waived_in_advance() {
        let (mut metered, show) = shown(&[0]);
        show(&[5]);
        metered.waive(seconds(3), 1);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(2));
        metered.waive(seconds(3), 1);
        show(&[9]);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(4));
    }

    #[test]
    fn of_two_that_compute_one_is_waived() {
        let (mut metered, show) = shown(&[0, 0]);
        show(&[5, 4]);
        metered.waive(seconds(5), 2);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(5));
    }

    #[test]
    fn who_sleeps_and_is_cancelled_pays_for_nobody_who_computes() {
        let (mut metered, show) = shown(&[0, 0, 0]);
        show(&[50, 50, 1]);
        for _ in 0..50 {
            metered.waive(seconds(1), 3);
        }
        assert_eq!(metered.bill(Duration::ZERO, seconds(1000)), seconds(100));
    }

    #[test]
    fn a_worker_that_was_ended_with_its_batch_counts() {
        let last = CpuTimes { living: vec![(1, seconds(10)), (2, seconds(20))], dead: seconds(5) };
        let now = CpuTimes { living: vec![(2, seconds(21)), (3, seconds(4))], dead: seconds(18) };
        assert_eq!(used_since(&last, &now), [seconds(1), seconds(4), seconds(3)]);
    }

    #[test]
    fn without_a_meter_workers_are_believed() {
        let mut metered = Metered::new(None);
        assert_eq!(metered.bill(Duration::from_secs(9), Duration::from_secs(1)), Duration::from_secs(9));
    }
}
