//! Where a sleeping worker wakes. The kernel wakes it where it ran last, or where its waker runs; if another worker is
//! busy there, it waits behind that one for milliseconds, while the host goes to sleep and leaves a core idle: what is
//! idle for less than half a millisecond takes nothing over (`sched_migration_cost_ns`). So a worker that would wake
//! on the core of another is kept off those cores while it is woken, and only then: it has all of its cores back before
//! the function runs, which may ask how many they are, or start threads that inherit them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Words that hold a set of cores.
const WORDS: usize = CpuSet::count().div_ceil(64);

/// The cores that a worker is to have back; none where it has them. In the page that host and worker share:
/// the one of the two that runs first gives them back, for the host may be put off its core by the very
/// worker that it wakes.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SavedAffinity {
    cores: [AtomicU64; WORDS],
    /// 1 while the cores are to be given back.
    owed: AtomicU64,
}

impl SavedAffinity {
    fn note(&self, cores: &CpuSet) {
        for (index, word) in self.cores.iter().enumerate() {
            let bit = |bit: &usize| cores.is_set(index * 64 + bit).unwrap_or(false);
            let bits = (0..64).filter(bit).fold(0, |bits, bit| bits | 1 << bit);
            word.store(bits, Ordering::Relaxed);
        }
        // Last, and with `Release`: a worker that is awake gives back all of the words or none.
        self.owed.store(1, Ordering::Release);
    }

    fn cores(&self) -> Option<CpuSet> {
        let mut cores = CpuSet::new();
        for (index, word) in self.cores.iter().enumerate() {
            let bits = word.load(Ordering::Relaxed);
            for bit in (0..64).filter(|bit| bits & (1 << bit) != 0) {
                cores.set(index * 64 + bit).ok()?;
            }
        }
        Some(cores)
    }

    /// Gives `worker` its cores back if it has not got them yet; 0 is the calling thread.
    pub(crate) fn give_back(&self, worker: Pid) {
        // Asked before each batch, so that the usual case is one load. The flag is cleared before the words are
        // read: what the host notes meanwhile is given back by its own guard.
        if self.owed.load(Ordering::Relaxed) == 0 || self.owed.swap(0, Ordering::Acquire) == 0 {
            return;
        }
        let Some(cores) = self.cores() else { return };
        // Host and worker may both come here at once, and then set the same mask. The worker may have died
        // meanwhile.
        let _gone = sched_setaffinity(worker, &cores);
    }
}

/// All cores that a kernel may have.
fn every_core() -> CpuSet {
    let mut all = CpuSet::new();
    for core in 0..CpuSet::count() {
        // Below the count it does not fail.
        let _set = all.set(core);
    }
    all
}

/// The mask by which the calling thread, which has the cores `had`, gets them back: of all cores, where it gets no
/// more of them than it has, so that it follows its control group when that is given others. It may have all of them
/// meanwhile: to be called before the thread chooses fewer, or where it ends.
pub(crate) fn to_come_back_to(had: CpuSet) -> CpuSet {
    let me = Pid::from_raw(0);
    let all = every_core();
    let now = sched_setaffinity(me, &all).and_then(|()| sched_getaffinity(me));
    if now == Ok(had) { all } else { had }
}

/// Whether this process may use all cores of its control group: whether a thread that asks for all cores gets no
/// more than it was started with. Asked once, because it starts a thread.
fn has_all_of_its_group() -> bool {
    static ALL: OnceLock<bool> = OnceLock::new();
    *ALL.get_or_init(|| {
        let asks =
            || Ok::<_, nix::Error>(to_come_back_to(sched_getaffinity(Pid::from_raw(0))?) == every_core());
        // Where no thread starts, the mask of each worker is given back as it was.
        let thread = std::thread::Builder::new().spawn(asks);
        thread.ok().and_then(|thread| thread.join().ok()?.ok()).unwrap_or(false)
    })
}

/// The mask that gives a worker back the cores which it had. The kernel takes a mask for the wish of the thread,
/// and cuts it to the control group's cores from then on, also when these become more (`docker update
/// --cpuset-cpus`). A worker with all cores of the group, which never asked for any, is to follow the group.
fn to_give_back(had: CpuSet) -> CpuSet {
    let own = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    if own == had && has_all_of_its_group() { every_core() } else { had }
}

/// The cores on which workers are busy.
#[derive(Debug, Default)]
pub(crate) struct BusyCores(Vec<usize>);

/// Gives a worker back the cores that it may use, when it is woken.
#[derive(Debug)]
pub(crate) struct AffinityGuard<'a> {
    worker: Pid,
    owed: &'a SavedAffinity,
}

impl BusyCores {
    pub(crate) fn on(cores: impl Iterator<Item = usize>) -> Self {
        BusyCores(cores.collect())
    }

    /// Keeps the thread of a worker that ran on `core` last off the busy cores until the result is dropped. `None`: it is
    /// on none of them, may use no other, or is no thread of that process.
    pub(crate) fn keep_off<'a>(
        &self,
        process: u32,
        thread: Option<Pid>,
        core: Option<usize>,
        owed: &'a SavedAffinity,
    ) -> Option<AffinityGuard<'a>> {
        let _taken = core.filter(|core| self.0.contains(core))?;
        let worker = thread.filter(|thread| is_thread_of(*thread, process))?;
        // A host that was not allowed all cores gave its workers no more; the function may have chosen some itself.
        let allowed = sched_getaffinity(worker).ok()?;
        let mut free = allowed;
        for core in &self.0 {
            free.unset(*core).ok()?;
        }
        if !(0..CpuSet::count()).any(|core| free.is_set(core).unwrap_or(false)) {
            return None;
        }
        // The note second: the worker may be awake, and what it gives back before this it would not get again.
        sched_setaffinity(worker, &free).ok()?;
        owed.note(&to_give_back(allowed));
        Some(AffinityGuard { worker, owed })
    }
}

/// Whether it is a thread of that process. A worker's page says which it is, where its function can write.
fn is_thread_of(thread: Pid, process: u32) -> bool {
    // SAFETY: signal 0 is sent to nothing; the kernel only looks the thread up.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread.as_raw(), 0) == 0 }
}

impl Drop for AffinityGuard<'_> {
    fn drop(&mut self) {
        self.owed.give_back(self.worker);
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

        let mut one = CpuSet::new();
        one.set(cores[0]).expect("a core");
        let owed = SavedAffinity(std::array::from_fn(|_| AtomicU64::new(0)));
        let busy = BusyCores::on([cores[0]].into_iter());
        assert!(busy.keep_off(child.id(), Some(worker), None, &owed).is_none(), "it has run nowhere yet");
        assert!(
            busy.keep_off(child.id(), Some(worker), Some(usize::MAX), &owed).is_none(),
            "nobody is where it was"
        );
        let kept_off = busy.keep_off(child.id(), Some(worker), Some(cores[0]), &owed);
        if let [_, other, ..] = *cores.as_slice() {
            assert!(kept_off.is_some() && !allowed().is_set(cores[0]).unwrap_or(true));
            assert!(allowed().is_set(other).unwrap_or(false));
        } else {
            assert!(kept_off.is_none(), "there is no other");
        }
        // The worker runs before its waker.
        owed.give_back(worker);
        assert_eq!(allowed(), own);
        assert!(sched_setaffinity(worker, &one).is_ok());
        drop(kept_off);
        assert_eq!(allowed(), one, "what it has chosen itself since is left alone");
        assert!(sched_setaffinity(worker, &own).is_ok());
        drop(busy.keep_off(child.id(), Some(worker), Some(cores[0]), &owed));
        assert_eq!(allowed(), own);
        let everywhere = BusyCores::on(cores.iter().copied());
        assert!(
            everywhere.keep_off(child.id(), Some(worker), Some(cores[0]), &owed).is_none(),
            "all are busy"
        );

        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process that waits");
        let kept_off = busy.keep_off(other.id(), Some(worker), Some(cores[0]), &owed);
        assert!(kept_off.is_none(), "a thread of another process is left alone");
        drop(other.stdin.take());
        other.wait().expect("it ends with its input");

        drop(child.stdin.take());
        child.wait().expect("it ends with its input");
        assert!(busy.keep_off(child.id(), Some(worker), Some(cores[0]), &owed).is_none(), "it is gone");
    }
}
