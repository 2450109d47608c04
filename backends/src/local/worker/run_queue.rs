//! Run queue time of the thread that runs items: how long it was ready to run and had no core. Other programs
//! on the cores show up here, and workers that outnumber the cores; items that sleep do not.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// Time between two reads: a read takes a microsecond, which short batches would notice.
const PAUSE: Duration = Duration::from_millis(1);

/// The kernel's count for the calling thread, and how much of it has been reported.
#[derive(Debug)]
pub(super) struct RunQueue {
    file: File,
    reported: Duration,
    read: Instant,
    ended: Instant,
}

impl RunQueue {
    /// `None` where the kernel does not count, or `/proc` is not mounted.
    pub(super) fn of_this_thread() -> Option<RunQueue> {
        // The path is resolved here, once: the file stays that of this thread, which must be the one that
        // runs items.
        let file = File::open("/proc/thread-self/schedstat").ok()?;
        let now = Instant::now();
        Some(RunQueue { reported: waited(&file)?, file, read: now, ended: now })
    }

    /// A batch begins. Forgets what was counted while the thread had nothing to do.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        // A shorter gap is counted to the next batch, because a read for each would cost short batches too
        // much.
        if now.duration_since(self.ended) >= PAUSE
            && let Some(waited) = waited(&self.file)
        {
            (self.reported, self.read) = (waited, now);
        }
    }

    /// A batch has ended: the time since the last report. That of short batches comes with a later one.
    pub(super) fn end(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.ended = now;
        if now.duration_since(self.read) < PAUSE {
            return Some(Duration::ZERO);
        }
        let waited = waited(&self.file)?;
        self.read = now;
        Some(waited.saturating_sub(std::mem::replace(&mut self.reported, waited)))
    }
}

/// The second number of `schedstat`: nanoseconds in the run queue.
fn waited(file: &File) -> Option<Duration> {
    let mut text = [0; 96];
    let length = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_thread_that_shares_its_core_waits_and_one_that_sleeps_does_not() {
        let Some(mut queue) = RunQueue::of_this_thread() else { return };
        queue.begin();
        std::thread::sleep(Duration::from_millis(20));
        let asleep = queue.end().expect("the kernel counts");
        assert!(asleep < Duration::from_millis(20), "{asleep:?}");
        let mut here = CpuSet::new();
        here.set(sched_getcpu().expect("a core")).expect("a number of a core");
        sched_setaffinity(Pid::from_raw(0), &here).expect("it runs there");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
        let mut waited = Duration::ZERO;
        std::thread::scope(|scope| {
            scope.spawn(|| while !stopped() {});
            let deadline = Instant::now() + Duration::from_secs(20);
            while waited < Duration::from_millis(10) && Instant::now() < deadline {
                queue.begin();
                let end = Instant::now() + Duration::from_millis(2);
                while Instant::now() < end {}
                waited += queue.end().expect("the kernel counts");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(waited >= Duration::from_millis(10), "{waited:?}");
    }
}
