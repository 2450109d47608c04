//! Threads that a run's workers were refused: starting one fails with EAGAIN, and many a library takes that for
//! an error without a name. Kept by the pool's thread, which adds the words to what failed meanwhile.

use std::sync::Arc;

use fastmap_backends::Outcome;
use fastmap_backends::local::{Relay, Stream};

use super::launch::Meter;

/// Failures of one answer that are told of it.
const MOST: usize = 4;

/// What was seen of one run's workers.
#[derive(Debug)]
pub(super) struct Threads {
    meter: Option<Arc<dyn Meter>>,
    relay: Arc<dyn Relay>,
    /// Those that a failure or a line has told of.
    told: u64,
    warned: bool,
}

impl Threads {
    pub(super) fn new(meter: Option<Arc<dyn Meter>>, relay: Arc<dyn Relay>) -> Self {
        Threads { meter, relay, told: 0, warned: false }
    }

    /// How many each worker may have, if more were refused since this was asked last.
    fn news(&mut self) -> Option<u32> {
        let (refused, most) = self.meter.as_ref()?.refused_threads();
        let before = std::mem::replace(&mut self.told, refused);
        (refused > before).then_some(most)
    }

    /// Says in what failed that threads were refused meanwhile.
    pub(super) fn blame(&mut self, outcome: &mut Outcome) {
        match outcome {
            Outcome::Done(results) if !results.failures.is_empty() => {
                let Some(most) = self.news() else { return };
                for failure in results.failures.iter_mut().take(MOST) {
                    failure.add(&format!("; {}", words(most)));
                }
                self.warned = true;
            }
            Outcome::Lost(_, loss) => {
                let Some(most) = self.news() else { return };
                let clone = format!("clone (of more than {most} threads)");
                let refused = loss.death.refused.take();
                loss.death.refused = Some(match refused {
                    Some(calls) => format!("{calls}, {clone}"),
                    None => clone,
                });
                self.warned = true;
            }
            Outcome::Done(_) | Outcome::Returned(_) => {}
        }
    }

    /// A line of the run's, once, where threads were refused to items that have not failed of it.
    pub(super) fn warn(&mut self) {
        if self.warned {
            return;
        }
        if let Some(most) = self.news() {
            self.warned = true;
            let line = format!("fastmap: warning: {} (told once a map)\n", words(most));
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

    impl Meter for Counted {
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

    impl Relay for Lines {
        fn line(&self, _worker: &str, _stream: Stream, line: &[u8]) {
            self.0.lock().expect("whole").push(String::from_utf8_lossy(line).into_owned());
        }
    }

    #[test]
    fn a_failure_is_told_of_threads_that_were_refused_since_the_last_and_a_run_is_warned_once() {
        let (meter, lines) = (Arc::new(Counted::default()), Arc::new(Lines::default()));
        let mut threads = Threads::new(Some(Arc::clone(&meter) as _), Arc::clone(&lines) as _);
        let mut failed = || {
            let failure = ItemFailure { offset: 0, kind: FailureKind::Panic, message: "panicked".to_owned() };
            let mut outcome = Outcome::Done(Results { failures: vec![failure], ..Results::default() });
            threads.blame(&mut outcome);
            let Outcome::Done(results) = outcome else { panic!("it was done") };
            results.failures[0].message.clone()
        };
        assert_eq!(failed(), "panicked");
        meter.0.store(3, Ordering::Relaxed);
        assert!(failed().contains("60 threads at a time"));
        assert_eq!(failed(), "panicked");
        let mut threads = Threads::new(Some(meter as _), Arc::clone(&lines) as _);
        threads.warn();
        threads.warn();
        let lines = lines.0.lock().expect("whole");
        assert!(lines.len() == 1 && lines[0].contains("(EAGAIN)"), "{lines:?}");
    }
}
