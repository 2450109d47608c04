//! Threads that a run's workers were refused: starting one fails with EAGAIN, and many a library takes that for
//! an error without a name. Kept by the pool's thread, which adds the words to what failed meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::Outcome;
use fastmap_backends::local::{OutputSink, Stream};

use super::launcher::CpuMeter;

/// Failures of one answer that mention it.
const MOST: usize = 4;

/// A worker that was refused a thread ends soon afterwards, if it ends for that.
const SOON: Duration = Duration::from_secs(1);

/// What was seen of one run's workers.
#[derive(Debug)]
pub(super) struct Threads {
    meter: Option<Arc<dyn CpuMeter>>,
    relay: Arc<dyn OutputSink>,
    refused: u64,
    /// When more were seen to be refused, until a failure mentions it.
    struck: Option<Instant>,
    warned: bool,
}

impl Threads {
    pub(super) fn new(meter: Option<Arc<dyn CpuMeter>>, relay: Arc<dyn OutputSink>) -> Self {
        Threads { meter, relay, refused: 0, struck: None, warned: false }
    }

    /// Looks whether more were refused, and returns how many each worker may have.
    fn look(&mut self) -> u32 {
        let Some(meter) = &self.meter else { return 0 };
        let (refused, most) = meter.refused_threads();
        if refused > self.refused {
            (self.refused, self.struck) = (refused, Some(Instant::now()));
        }
        most
    }

    /// Whether threads were refused within the time before now, and no failure has mentioned that yet.
    fn struck_within(&mut self, time: Duration) -> bool {
        let within = self.struck.is_some_and(|struck| struck.elapsed() <= time);
        if within {
            (self.struck, self.warned) = (None, true);
        }
        within
    }

    /// Says in what failed that threads were refused while it ran.
    pub(super) fn blame(&mut self, outcome: &mut Outcome) {
        match outcome {
            Outcome::Done(results) if !results.failures.is_empty() => {
                let most = self.look();
                // What was refused is seen now, or was seen while these items ran.
                if self.struck_within(results.wall + SOON) {
                    for failure in results.failures.iter_mut().take(MOST) {
                        failure.add(&format!("; {}", words(most)));
                    }
                }
            }
            Outcome::Lost(_, loss) => {
                let most = self.look();
                if self.struck_within(SOON) {
                    let clone = format!("clone (of more than {most} threads)");
                    let refused = loss.death.refused.take();
                    loss.death.refused = Some(match refused {
                        Some(calls) => format!("{calls}, {clone}"),
                        None => clone,
                    });
                }
            }
            Outcome::Done(_) | Outcome::Returned(_) => {}
        }
    }

    /// A line of the run's, once, where threads were refused to items that have not failed of it.
    pub(super) fn warn(&mut self) {
        let most = self.look();
        if self.struck.is_some() && !self.warned {
            self.warned = true;
            let line = format!("fastmap: warning: {} (reported once a map)\n", words(most));
            self.relay.line("fastmap", Stream::Stderr, line.as_bytes());
        }
    }
}

fn words(most: u32) -> String {
    format!(
        "a worker of the service may have {most} threads at a time, and starting another one failed (EAGAIN): \
         have the function start fewer"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use fastmap_backends::local::CpuTimes;
    use fastmap_backends::{FailureKind, ItemFailure, Results};

    use super::*;

    #[derive(Debug, Default)]
    struct Counted(AtomicU64);

    impl CpuMeter for Counted {
        fn cpu(&self) -> CpuTimes {
            CpuTimes::default()
        }

        fn end(&self) {}

        fn refused_threads(&self) -> (u64, u32) {
            (self.0.load(Ordering::Relaxed), 60)
        }
    }

    #[derive(Debug, Default)]
    struct Lines(Mutex<Vec<String>>);

    impl OutputSink for Lines {
        fn line(&self, _worker: &str, _stream: Stream, line: &[u8]) {
            self.0.lock().expect("whole").push(String::from_utf8_lossy(line).into_owned());
        }
    }

    #[test]
    fn a_failure_is_told_of_threads_that_were_refused_meanwhile_and_a_run_is_warned_once() {
        let (meter, lines) = (Arc::new(Counted::default()), Arc::new(Lines::default()));
        let mut threads = Threads::new(Some(Arc::clone(&meter) as _), Arc::clone(&lines) as _);
        let fail = |threads: &mut Threads| {
            let failure = ItemFailure { offset: 0, kind: FailureKind::Panic, message: "panicked".to_owned() };
            let mut outcome = Outcome::Done(Results { failures: vec![failure], ..Results::default() });
            threads.blame(&mut outcome);
            let Outcome::Done(results) = outcome else { panic!("it was done") };
            results.failures[0].message.clone()
        };
        assert_eq!(fail(&mut threads), "panicked");
        meter.0.store(3, Ordering::Relaxed);
        assert!(fail(&mut threads).contains("60 threads at a time"));
        assert_eq!(fail(&mut threads), "panicked");
        // An item that still runs is seen by the clock before it fails.
        meter.0.store(5, Ordering::Relaxed);
        threads.warn();
        assert!(fail(&mut threads).contains("60 threads at a time"));
        let mut threads = Threads::new(Some(meter as _), Arc::clone(&lines) as _);
        threads.warn();
        threads.warn();
        let lines = lines.0.lock().expect("whole");
        assert!(lines.len() == 1 && lines[0].contains("(EAGAIN)"), "{lines:?}");
    }
}
