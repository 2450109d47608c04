//! Workers of a stranger's executable, each in a jail of its own: the launcher that the service's agent hands to a pool.
//! The jail itself is `fastmap-sandbox`'s.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fastmap_sandbox::elf::ElfError;
use fastmap_sandbox::jail::{Executable, Guard, Jail, Limits, PARENT, SOCKET, Spec, Usage};

use crate::execution::build_id;
use crate::local::LocalOptions;
use crate::local::launcher::{ChildGuard, LaunchedChild, Launcher, Start};
use crate::model::death::{ExitReason, MemoryLimit};

/// One executable, and the jails that its workers get. One for each account and run: no worker serves two.
#[derive(Debug)]
pub struct Jailed {
    jail: Jail,
    executable: Executable,
    identity: String,
    limits: Limits,
    /// Variables of the workers' environment.
    environment: Vec<(String, String)>,
    zone: Option<String>,
    meter: Arc<Mutex<Meter>>,
}

/// CPU time that workers have used so far, as the kernel has counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Of each that lives, by its number.
    pub living: Vec<(u64, Duration)>,
    /// Of all that are dead.
    pub dead: Duration,
}

impl CpuTimes {
    /// Of all.
    pub fn total(&self) -> Duration {
        self.dead + self.living.iter().map(|(_, cpu)| *cpu).sum::<Duration>()
    }
}

/// What all workers of one launcher have used.
#[derive(Debug, Default)]
struct Meter {
    /// Those that are dead.
    spent: Usage,
    /// The others, numbered.
    alive: Vec<(u64, Weak<Guard>)>,
    launched: u64,
}

impl Meter {
    fn living(&mut self) -> impl Iterator<Item = (u64, Arc<Guard>)> {
        self.alive.retain(|(_, guard)| guard.strong_count() > 0);
        self.alive.iter().filter_map(|(number, guard)| Some((*number, guard.upgrade()?)))
    }
}

impl Jailed {
    /// Reads the executable; starts nothing. The file must stay as it is, readable and executable for everybody.
    ///
    /// # Errors
    /// If it can't run on this machine; the text is for the user who sent it.
    pub fn new(jail: Jail, executable: &Path, limits: Limits) -> Result<Jailed, ElfError> {
        let executable = Executable::examine(executable)?;
        let identity = build_id::identity_of(&executable)
            .map_err(|error| ElfError::Damaged(format!("{}: {error}", executable.path().display())))?;
        let (environment, zone) = (Vec::new(), None);
        Ok(Jailed { jail, executable, identity, limits, environment, zone, meter: Arc::default() })
    }

    /// The same with variables in the workers' environment, and with a time zone of theirs.
    #[must_use]
    pub fn surrounded(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
        zone: Option<String>,
    ) -> Jailed {
        self.environment = variables.into_iter().collect();
        self.zone = zone;
        self
    }

    /// For a pool of at most `processes` such workers. A worker may answer as much at a time as it may have
    /// memory; of what it prints, `output` bytes a second are passed on.
    pub fn options(self: &Arc<Self>, processes: usize, output: u64) -> LocalOptions {
        let mut options = LocalOptions::new(processes);
        options.launcher = Some(Arc::clone(self) as Arc<dyn Launcher>);
        options.identity = Some(self.identity.clone());
        options.output = Some(output);
        options.answer = Some(self.limits.memory);
        options
    }

    /// What its workers have used so far, as the kernel counted it: CPU time and refusals are sums over all of them, the
    /// memory is the most that one has had.
    pub fn usage(&self) -> Usage {
        // One lock for the dead and the living, as in `settle`: a worker that dies meanwhile is counted once.
        let mut meter = lock(&self.meter);
        let spent = meter.spent;
        meter.living().fold(spent, |sum, (_, guard)| add(sum, guard.usage()))
    }

    /// Threads and processes that were refused to its workers so far, and how many threads each may have.
    pub fn refused_threads(&self) -> (u64, u32) {
        (self.usage().refused_processes, self.limits.processes.saturating_sub(OF_BUBBLEWRAP))
    }

    /// CPU time of all that ever ran in its jails, of which [`Jailed::cpu`] says whose it is. The two agree
    /// once all workers are dead. `None`: its jail belongs to no run.
    pub fn total_cpu(&self) -> Option<Duration> {
        self.jail.cpu()
    }

    /// The CPU time of [`Jailed::usage`] alone: asked for with each batch. A worker counts from the moment in
    /// which its process enters its group, before bubblewrap and before it reports for duty, to the end of
    /// all that it has started.
    pub fn cpu(&self) -> CpuTimes {
        let mut meter = lock(&self.meter);
        let dead = meter.spent.cpu;
        CpuTimes { living: meter.living().map(|(number, guard)| (number, guard.cpu())).collect(), dead }
    }

    /// Ends all of its workers that run now: what they do can't be paid.
    pub fn end(&self) {
        // The lock is released before the jails are ended, because `settle` takes it when a worker has died
        // of this.
        let living: Vec<Arc<Guard>> = lock(&self.meter).living().map(|(_, guard)| guard).collect();
        for guard in living {
            guard.end();
        }
    }
}

/// Processes in a jail's group that are not the worker's.
const OF_BUBBLEWRAP: u32 = 2;

/// A worker that ran out of its own memory may have had so many bytes less: the kernel charges in portions.
const PORTION: u64 = 4 << 20;

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(one: Usage, other: Usage) -> Usage {
    Usage {
        cpu: one.cpu + other.cpu,
        memory: one.memory.max(other.memory),
        oom_kills: one.oom_kills + other.oom_kills,
        refused_processes: one.refused_processes + other.refused_processes,
    }
}

impl Launcher for Jailed {
    fn launch(&self, start: &Start<'_>) -> io::Result<LaunchedChild> {
        // Parent and socket as the worker sees them in its jail, which has processes and files of its own.
        let (name, value) = start.variable(PARENT, SOCKET);
        let others = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let environment: Vec<(&str, &str)> = others.chain([(name, value.as_str())]).collect();
        let spec = Spec {
            executable: &self.executable,
            environment: &environment,
            zone: self.zone.as_deref(),
            socket: Some(start.socket),
            limits: self.limits.clone(),
        };
        let (command, guard) = self.jail.command(&spec)?;
        let guard = Arc::new(guard);
        {
            let mut meter = lock(&self.meter);
            meter.launched += 1;
            let number = meter.launched;
            // Weak, because a jail ends when the pool drops its guard, which the meter must not put off.
            meter.alive.push((number, Arc::downgrade(&guard)));
        }
        let guard = Watch {
            guard,
            meter: Arc::clone(&self.meter),
            memory: self.limits.memory,
            shared: self.jail.shared_memory(),
            counted: false,
        };
        Ok(LaunchedChild { command, guard: Box::new(guard) })
    }
}

/// Watches over one jailed worker.
#[derive(Debug)]
struct Watch {
    guard: Arc<Guard>,
    meter: Arc<Mutex<Meter>>,
    memory: u64,
    /// What all jails of its account may have together.
    shared: Option<u64>,
    counted: bool,
}

impl Watch {
    /// Once: moves what this worker has used from the living to the dead.
    fn settle(&mut self) -> Usage {
        // First, so that nothing in the jail runs on and the count below is the last.
        self.guard.end();
        let mut meter = lock(&self.meter);
        let usage = self.guard.usage();
        // `exit_reason` and `drop` both come here, and what the worker has used is added once.
        if !self.counted {
            self.counted = true;
            meter.spent = add(meter.spent, usage);
            meter.alive.retain(|(_, guard)| !std::ptr::eq(guard.as_ptr(), Arc::as_ptr(&self.guard)));
        }
        usage
    }
}

impl ChildGuard for Watch {
    fn exit_reason(&mut self, status: ExitStatus) -> ExitReason {
        let usage = self.settle();
        if usage.oom_kills > 0 {
            // One that never had its own was ended because its account's others had the rest.
            let shared = self.shared.filter(|_| usage.memory + PORTION < self.memory);
            return ExitReason::OutOfMemory(MemoryLimit::Jail(shared.unwrap_or(self.memory)));
        }
        judge(status)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.settle();
    }
}

/// bubblewrap reports a signal by the exit code, as a shell does: 128 and the signal's number. A worker that
/// leaves by
/// `exit(139)` is taken for one that crashed, because the two look alike.
fn judge(status: ExitStatus) -> ExitReason {
    match (status.code(), status.signal()) {
        // Linux numbers its signals from 1 to 64.
        (Some(code @ 129..=192), _) => ExitReason::Signal(code - 128),
        (Some(code), _) => ExitReason::Exit(code),
        (None, Some(signal)) => ExitReason::Signal(signal),
        (None, None) => ExitReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_inside_the_jail_is_told_as_one() {
        let exited = |code: i32| judge(ExitStatus::from_raw(code << 8));
        assert_eq!(exited(0), ExitReason::Exit(0));
        assert_eq!(exited(113), ExitReason::Exit(113));
        assert_eq!(exited(128 + 11), ExitReason::Signal(11));
        assert_eq!(exited(255), ExitReason::Exit(255));
        assert_eq!(judge(ExitStatus::from_raw(9)), ExitReason::Signal(9));
    }
}
