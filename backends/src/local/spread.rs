//! Where a sleeping worker wakes. The kernel wakes it where it ran last, or where its waker runs; if another worker is
//! busy there, it waits behind that one for milliseconds, while the host goes to sleep and leaves a core idle: what is
//! idle for less than half a millisecond takes nothing over (`sched_migration_cost_ns`). So a worker that would wake
//! on the core of another is kept off those cores while it is woken, and only then.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The cores on which workers are busy.
#[derive(Debug, Default)]
pub(crate) struct Busy(Vec<usize>);

/// Gives a worker back the cores that it may use, when it is woken.
#[derive(Debug)]
pub(crate) struct KeptOff {
    worker: Pid,
    allowed: CpuSet,
}

impl Busy {
    pub(crate) fn on(cores: impl Iterator<Item = usize>) -> Self {
        Busy(cores.collect())
    }

    /// Keeps a worker that ran on `core` last off the busy cores until the result is dropped. `None`: it is on none of
    /// them, or may use no other.
    pub(crate) fn keep_off(&self, worker: u32, core: usize) -> Option<KeptOff> {
        if !self.0.contains(&core) {
            return None;
        }
        let worker = Pid::from_raw(i32::try_from(worker).ok()?);
        // A host that was not allowed all cores gave its workers no more; the function may have chosen some itself.
        let allowed = sched_getaffinity(worker).ok()?;
        let mut free = allowed;
        for core in &self.0 {
            free.unset(*core).ok()?;
        }
        let any = (0..CpuSet::count()).any(|core| free.is_set(core).unwrap_or(false));
        (any && sched_setaffinity(worker, &free).is_ok()).then_some(KeptOff { worker, allowed })
    }
}

impl Drop for KeptOff {
    fn drop(&mut self) {
        // It may have died meanwhile.
        let _gone = sched_setaffinity(self.worker, &self.allowed);
    }
}
