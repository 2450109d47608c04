//! What a batch is charged of the CPU time that the kernel has counted for all workers of its run. Called by `pool`.

use std::sync::Arc;
use std::time::Duration;

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
}

impl Metered {
    /// What was used until now, for the start of the first worker, is nobody's.
    pub(super) fn new(meter: Option<Arc<dyn Meter>>) -> Self {
        let billed = meter.as_ref().map_or(Duration::ZERO, |meter| meter.cpu());
        Metered { meter, billed }
    }

    /// Of what was used since the last bill so much is on none: it went into what was cancelled.
    pub(super) fn waive(&mut self, time: Duration) {
        if let Some(meter) = self.meter.as_ref().filter(|_| !time.is_zero()) {
            self.billed = (self.billed + time).min(meter.cpu()).max(self.billed);
        }
    }

    /// The CPU time of a batch that is answered, of which its worker says that it took `said`.
    pub(super) fn bill(&mut self, said: Duration, limit: Duration) -> Duration {
        let Some(meter) = &self.meter else { return said };
        let due = meter.cpu().saturating_sub(self.billed).min(limit);
        self.billed += due;
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Shown(Mutex<Duration>);

    impl Meter for Shown {
        fn cpu(&self) -> Duration {
            *self.0.lock().expect("nobody panics")
        }
    }

    #[test]
    fn all_that_is_counted_is_billed_once_and_no_batch_pays_more_than_its_limit() {
        let seconds = Duration::from_secs;
        let shown = Arc::new(Shown::default());
        let show = |time| *shown.0.lock().expect("nobody panics") = time;
        show(seconds(3));
        let mut metered = Metered::new(Some(Arc::clone(&shown) as Arc<dyn Meter>));
        assert_eq!(metered.bill(seconds(9), seconds(10)), Duration::ZERO);
        show(seconds(20));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(10));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(7));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), Duration::ZERO);
    }

    #[test]
    fn what_is_waived_is_billed_to_nobody_and_nothing_is_waived_in_advance() {
        let seconds = Duration::from_secs;
        let shown = Arc::new(Shown::default());
        let mut metered = Metered::new(Some(Arc::clone(&shown) as Arc<dyn Meter>));
        *shown.0.lock().expect("nobody panics") = seconds(5);
        metered.waive(seconds(3));
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(2));
        metered.waive(seconds(3));
        *shown.0.lock().expect("nobody panics") = seconds(9);
        assert_eq!(metered.bill(Duration::ZERO, seconds(10)), seconds(4));
    }

    #[test]
    fn without_a_meter_workers_are_believed() {
        let mut metered = Metered::new(None);
        assert_eq!(metered.bill(Duration::from_secs(9), Duration::from_secs(1)), Duration::from_secs(9));
    }
}
