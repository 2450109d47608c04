//! CPU time that the kernel has counted for all workers of a run, and which part of it is on which bill. Called by `tab`.

use std::sync::Arc;
use std::time::Duration;

use fastmap_backends::local::CpuTimes;

use super::launcher::CpuMeter;

/// The meter of one run's workers, from the start of the first one on, and how much of what it shows is on a bill.
///
/// The kernel counts for workers, not for batches. All batches of a pool are one run's, which one account pays: whichever
/// is answered takes all that was used since the last one, up to its own limit; the rest is the next one's. What no batch
/// can take (the start, idle workers, cancelled batches, the time after the last answer) is used *beside* batches and
/// reported as that. Bills, reports and what is in neither yet add up to what the meter shows. What a worker says of
/// itself does not matter.
#[derive(Debug, Default)]
pub(super) struct BillingMeter {
    meter: Option<Arc<dyn CpuMeter>>,
    /// There is a meter, or was until the workers were dead.
    counts: bool,
    /// On a bill, or beside batches.
    billed: Duration,
    /// Limits of the batches in hand: what they may still take.
    pledged: Duration,
    /// Used beside batches and not reported yet.
    beside: Duration,
    /// What it showed at the last bill, and what was set aside since.
    last: CpuTimes,
    aside: Duration,
}

impl BillingMeter {
    /// Counts from zero: the start of the first worker is used beside batches.
    pub(super) fn new(meter: Option<Arc<dyn CpuMeter>>) -> Self {
        BillingMeter { counts: meter.is_some(), meter, ..BillingMeter::default() }
    }

    /// Takes a batch in hand that may use up to `limit`.
    pub(super) fn pledge(&mut self, limit: Duration) {
        self.pledged += limit;
    }

    /// Lets go of all batches: none of them is answered.
    pub(super) fn release_all(&mut self) {
        self.pledged = Duration::ZERO;
    }

    /// Moves what was used so far, and no batch can take, to what is used beside batches.
    pub(super) fn look(&mut self) {
        let Some(meter) = &self.meter else { return };
        let unbilled = meter.cpu().total().saturating_sub(self.billed);
        let surplus = unbilled.saturating_sub(self.pledged);
        self.billed += surplus;
        self.beside += surplus;
    }

    /// A batch was cancelled that has had a worker for `time`, one of `under_way` batches that had one: what it has used
    /// since the last bill is used beside batches. Which worker was its own is not known; those that have used most were
    /// the others', lest one that sleeps and is cancelled pays for one that computes.
    pub(super) fn cancel(&mut self, time: Duration, under_way: usize, limit: Duration) {
        self.pledged = self.pledged.saturating_sub(limit);
        let Some(meter) = self.meter.as_ref().filter(|_| !time.is_zero()) else { return };
        let now = meter.cpu();
        let mut used = used_since(&self.last, &now);
        used.sort_unstable();
        let theirs = used.len().saturating_sub(under_way.saturating_sub(1));
        let most: Duration = used[..theirs].iter().sum();
        let aside = (self.aside + time).min(most).max(self.aside);
        let more = aside.saturating_sub(self.aside).min(now.total().saturating_sub(self.billed));
        self.billed += more;
        self.beside += more;
        self.aside = aside;
    }

    /// The CPU time of a batch that is answered, of which its worker says that it took `said`.
    pub(super) fn bill(&mut self, said: Duration, limit: Duration) -> Duration {
        self.pledged = self.pledged.saturating_sub(limit);
        let Some(meter) = &self.meter else { return said };
        self.last = meter.cpu();
        self.aside = Duration::ZERO;
        let due = self.last.total().saturating_sub(self.billed).min(limit);
        self.billed += due;
        due
    }

    /// The bill of a batch comes to nothing: no gateway waits for its answer any more. Without a meter there is no bill.
    pub(super) fn unbill(&mut self, cpu: Duration) {
        if self.counts {
            self.beside += cpu;
        }
    }

    /// What was used beside batches and is to be reported, if it is at least that.
    pub(super) fn take(&mut self, least: Duration) -> Option<Duration> {
        (self.beside >= least && !self.beside.is_zero()).then(|| std::mem::take(&mut self.beside))
    }

    /// A report did not arrive.
    pub(super) fn put_back(&mut self, cpu: Duration) {
        self.beside += cpu;
    }

    /// Ends all workers that the meter counts.
    pub(super) fn end_workers(&self) {
        if let Some(meter) = &self.meter {
            meter.end();
        }
    }

    /// The workers are dead: takes what is left of the meter, and lets go of it.
    pub(super) fn close(&mut self) {
        self.release_all();
        self.look();
        // What `billed` counts was counted by this meter.
        self.meter = None;
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

    use proptest::prelude::*;

    use super::*;

    /// Shows what the test has set.
    #[derive(Debug, Default)]
    struct Shown(Mutex<CpuTimes>);

    impl CpuMeter for Shown {
        fn cpu(&self) -> CpuTimes {
            self.0.lock().expect("no panic").clone()
        }

        fn end(&self) {}
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A meter, and how to make it show seconds of workers 0, 1 and so on.
    fn shown(workers: &[u64]) -> (BillingMeter, impl Fn(&[u64])) {
        let shown = Arc::new(Shown::default());
        let meter = Arc::clone(&shown) as Arc<dyn CpuMeter>;
        let show = move |workers: &[u64]| {
            let living = (0..).zip(workers.iter().map(|cpu| seconds(*cpu))).collect();
            *shown.0.lock().expect("no panic") = CpuTimes { living, dead: Duration::ZERO };
        };
        show(workers);
        (BillingMeter::new(Some(meter)), show)
    }

    #[test]
    fn all_that_is_counted_is_billed_once_and_no_batch_pays_more_than_its_limit() {
        let (mut metered, show) = shown(&[3]);
        metered.look();
        assert_eq!(metered.take(Duration::ZERO), Some(seconds(3)), "the start");
        assert_eq!(metered.bill(seconds(9), seconds(10)), Duration::ZERO);
        show(&[20]);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(10));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(7));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), Duration::ZERO);
    }

    #[test]
    fn a_cancelled_batch_is_no_other_batchs_bill_and_nothing_is_set_aside_in_advance() {
        let (mut metered, show) = shown(&[0]);
        show(&[5]);
        metered.cancel(seconds(3), 1, seconds(10));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(2));
        metered.cancel(seconds(3), 1, seconds(10));
        show(&[9]);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(4));
        assert_eq!(metered.take(seconds(1)), Some(seconds(3)));
    }

    #[test]
    fn of_two_that_compute_one_is_set_aside() {
        let (mut metered, show) = shown(&[0, 0]);
        show(&[5, 4]);
        metered.cancel(seconds(5), 2, seconds(10));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(5));
        assert_eq!(metered.take(Duration::ZERO), Some(seconds(4)));
    }

    #[test]
    fn a_cancelled_batch_that_slept_takes_nothing_off_the_bill_of_one_that_computes() {
        let (mut metered, show) = shown(&[0, 0, 0]);
        show(&[50, 50, 1]);
        for _ in 0..50 {
            metered.cancel(seconds(1), 3, seconds(1000));
        }
        assert_eq!(metered.bill(Duration::ZERO, seconds(1000)), seconds(100));
    }

    #[test]
    fn what_batches_in_hand_can_take_is_theirs_and_the_rest_is_reported() {
        let (mut metered, show) = shown(&[0]);
        metered.pledge(seconds(10));
        show(&[12]);
        metered.look();
        assert_eq!(metered.take(seconds(3)), None, "it is less than what is asked for");
        assert_eq!(metered.take(seconds(2)), Some(seconds(2)));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(10));
        metered.unbill(seconds(10));
        metered.close();
        assert_eq!(metered.take(Duration::ZERO), Some(seconds(10)));
        assert_eq!(metered.take(Duration::ZERO), None);
    }

    #[test]
    fn a_worker_that_was_ended_with_its_batch_counts() {
        let last = CpuTimes { living: vec![(1, seconds(10)), (2, seconds(20))], dead: seconds(5) };
        let now = CpuTimes { living: vec![(2, seconds(21)), (3, seconds(4))], dead: seconds(18) };
        assert_eq!(used_since(&last, &now), [seconds(1), seconds(4), seconds(3)]);
    }

    #[test]
    fn without_a_meter_workers_are_believed() {
        let mut metered = BillingMeter::new(None);
        assert_eq!(metered.bill(Duration::from_secs(9), Duration::from_secs(1)), Duration::from_secs(9));
        metered.unbill(seconds(9));
        metered.close();
        assert_eq!(metered.take(Duration::ZERO), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Work(usize, u64),
        Answer(bool),
        Cancel(u64),
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Begin),
            (0..3usize, 0..20u64).prop_map(|(worker, cpu)| Step::Work(worker, cpu)),
            any::<bool>().prop_map(Step::Answer),
            (0..20u64).prop_map(Step::Cancel),
            Just(Step::Look),
        ]
    }

    proptest! {
        /// Whatever is answered, cancelled or left idle: bills and reports are what the meter shows, once.
        #[test]
        fn bills_and_reports_add_up_to_the_meter(steps in proptest::collection::vec(step(), 0..60)) {
            const LIMIT: Duration = seconds(10);
            let (mut metered, show) = shown(&[0, 0, 0]);
            let (mut workers, mut in_hand, mut paid) = ([1, 0, 0], 0usize, Duration::ZERO);
            show(&workers);
            for step in steps {
                match step {
                    Step::Begin => {
                        metered.pledge(LIMIT);
                        in_hand += 1;
                    }
                    Step::Work(worker, cpu) => {
                        workers[worker] += cpu;
                        show(&workers);
                    }
                    Step::Answer(wanted) if in_hand > 0 => {
                        in_hand -= 1;
                        let billed = metered.bill(seconds(1000), LIMIT);
                        prop_assert!(billed <= LIMIT);
                        match wanted {
                            true => paid += billed,
                            false => metered.unbill(billed),
                        }
                    }
                    Step::Cancel(time) if in_hand > 0 => {
                        metered.cancel(seconds(time), in_hand, LIMIT);
                        in_hand -= 1;
                    }
                    Step::Answer(_) | Step::Cancel(_) => {}
                    Step::Look => {
                        metered.look();
                        paid += metered.take(Duration::ZERO).unwrap_or_default();
                    }
                }
                prop_assert!(paid <= seconds(workers.iter().sum()));
            }
            metered.close();
            paid += metered.take(Duration::ZERO).unwrap_or_default();
            prop_assert_eq!(paid, seconds(workers.iter().sum()));
        }
    }
}
