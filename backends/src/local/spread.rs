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
    pub(crate) fn keep_off(&self, worker: u32, core: Option<usize>) -> Option<KeptOff> {
        let _taken = core.filter(|core| self.0.contains(core))?;
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_worker_is_kept_off_busy_cores_while_it_is_woken_and_no_longer() {
        let own = sched_getaffinity(Pid::from_raw(0)).expect("this thread's cores");
        let cores: Vec<usize> =
            (0..CpuSet::count()).filter(|core| own.is_set(*core).unwrap_or(false)).collect();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process that waits");
        let worker = Pid::from_raw(child.id() as i32);
        let allowed = || sched_getaffinity(worker).expect("it lives");

        let busy = Busy::on([cores[0]].into_iter());
        assert!(busy.keep_off(child.id(), None).is_none(), "it has run nowhere yet");
        assert!(busy.keep_off(child.id(), Some(usize::MAX)).is_none(), "nobody is where it was");
        let kept_off = busy.keep_off(child.id(), Some(cores[0]));
        if let [_, other, ..] = *cores.as_slice() {
            assert!(kept_off.is_some() && !allowed().is_set(cores[0]).unwrap_or(true));
            assert!(allowed().is_set(other).unwrap_or(false));
        } else {
            assert!(kept_off.is_none(), "there is no other");
        }
        drop(kept_off);
        assert_eq!(allowed(), own);
        let everywhere = Busy::on(cores.iter().copied());
        assert!(everywhere.keep_off(child.id(), Some(cores[0])).is_none(), "all are busy");

        drop(child.stdin.take());
        child.wait().expect("it ends with its input");
        assert!(busy.keep_off(child.id(), Some(cores[0])).is_none(), "it is gone");
    }
}
