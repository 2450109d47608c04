//! One control group, in each tree that it needs: limits, usage, and killing its processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::jail::cgroup::hierarchy::Trees;
use crate::jail::owner::{Lock, lock};
use crate::jail::shares::FAVOR;
use crate::jail::spec::Usage;
use crate::memory_group::field;

/// Timeout for the exit of a group's processes after SIGKILL. Normally they exit far sooner.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn set(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| with_path(&path, &error))
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// A control group. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) trees: Arc<Trees>,
    /// Path beneath the trees' roots.
    pub(super) name: PathBuf,
    folders: Vec<PathBuf>,
    /// Locks of a service's group, held while it exists.
    locks: Vec<Lock>,
    /// The parent group. Dropped last, after this group has been removed.
    _parent: Option<Arc<Group>>,
}

impl Group {
    pub(super) fn make(trees: &Arc<Trees>, name: PathBuf, parent: Option<Arc<Group>>) -> io::Result<Group> {
        let mut group =
            Group { trees: Arc::clone(trees), name, folders: Vec::new(), locks: Vec::new(), _parent: parent };
        for root in trees.roots() {
            let folder = root.join(&group.name);
            fs::create_dir(&folder).map_err(|error| with_path(&folder, &error))?;
            group.folders.push(folder);
        }
        Ok(group)
    }

    /// Makes a child group with a name that is not used again.
    pub(super) fn beneath(parent: &Arc<Group>, name: &str) -> io::Result<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = parent.name.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Group::make(&parent.trees, name, Some(Arc::clone(parent)))
    }

    /// Locks the group for a living service.
    ///
    /// # Errors
    /// If another service has taken it for a dead service's group meanwhile.
    pub(super) fn lock(mut self) -> io::Result<Group> {
        for folder in &self.folders {
            let locked = File::open(folder).and_then(lock).map_err(|error| with_path(folder, &error))?;
            self.locks.push(locked);
        }
        // Check that it still exists: a sweep may have removed it before it was locked. Once locked, no
        // service removes it.
        self.folders.iter().try_for_each(|folder| fs::metadata(folder).map(drop))?;
        Ok(self)
    }

    /// Gives all jails together the CPU weight of one process per processor, relative to everything beside
    /// the service.
    pub(super) fn set_service_weight(&mut self) -> io::Result<()> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        match &*self.trees {
            Trees::V2(root) => {
                set(&root.join(&self.name), "cpu.weight", &(100 * processors).min(10_000).to_string())
            }
            Trees::V1 { cpu, .. } => {
                set(&cpu.join(&self.name), "cpu.shares", &(1024 * processors).min(262_144).to_string())
            }
        }
    }

    /// Sets whether this account's group is favored because it is behind its share. The kernel runs groups
    /// that are not favored only when no favored one is runnable (`cpu.idle`). Before Linux 5.15 weights are
    /// used instead.
    pub(super) fn favor(&self, favored: bool) -> io::Result<()> {
        let (root, file, weight) = match &*self.trees {
            Trees::V2(root) => (root, "cpu.weight", 100),
            Trees::V1 { cpu, .. } => (cpu, "cpu.shares", 1024),
        };
        let at = root.join(&self.name);
        if at.join("cpu.idle").exists() {
            return set(&at, "cpu.idle", if favored { "0" } else { "1" });
        }
        set(&at, file, &(if favored { weight * FAVOR } else { weight }).to_string())
    }

    /// Limits the memory of this group with all groups beneath it.
    pub(super) fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let text = bytes.to_string();
        match &*self.trees {
            Trees::V2(root) => {
                let at = root.join(&self.name);
                set(&at, "memory.max", &text)?;
                // A kernel without swap has no such file, and needs no limit.
                if at.join("memory.swap.max").exists() {
                    set(&at, "memory.swap.max", "0")?;
                }
                Ok(())
            }
            Trees::V1 { memory, .. } => {
                let at = memory.join(&self.name);
                set(&at, "memory.limit_in_bytes", &text)?;
                // Limit memory plus swap to the limit of memory, so that no swap is left.
                if at.join("memory.memsw.limit_in_bytes").exists() {
                    set(&at, "memory.memsw.limit_in_bytes", &text)
                } else {
                    set(&at, "memory.swappiness", "0")
                }
            }
        }
    }

    /// Makes the limits of this group apply to all groups in it together.
    pub(super) fn delegate(&self) -> io::Result<()> {
        match &*self.trees {
            Trees::V2(root) => set(&root.join(&self.name), "cgroup.subtree_control", "+memory +pids +cpu"),
            Trees::V1 { memory, .. } => {
                let at = memory.join(&self.name);
                // A new group inherits the parent's setting. Since Linux 5.11 hierarchical accounting is
                // always on.
                let hierarchical = fs::read_to_string(at.join("memory.use_hierarchy"));
                match hierarchical.is_ok_and(|text| text.trim() == "0") {
                    true => set(&at, "memory.use_hierarchy", "1"),
                    false => Ok(()),
                }
            }
        }
    }

    /// Opens the `cgroup.procs` files. A process joins the group by writing "0" to each.
    pub(crate) fn procs_files(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &PathBuf| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        self.folders.iter().map(|folder| open(folder).map(OwnedFd::from)).collect()
    }

    fn text(&self, root: &Path, file: &str) -> String {
        fs::read_to_string(root.join(&self.name).join(file)).unwrap_or_default()
    }

    /// CPU time of all processes that were ever in this group or beneath it. Read for each batch, so it reads
    /// one file only.
    pub(crate) fn cpu(&self) -> Duration {
        match &*self.trees {
            Trees::V2(root) => {
                Duration::from_micros(field(&self.text(root, "cpu.stat"), "usage_usec").unwrap_or(0))
            }
            Trees::V1 { cpuacct, .. } => Duration::from_nanos(number(&self.text(cpuacct, "cpuacct.usage"))),
        }
    }

    /// Usage of its processes so far, including dead ones.
    pub(crate) fn usage(&self) -> Usage {
        let number = |root: &Path, file: &str| number(&self.text(root, file));
        let field = |root: &Path, file: &str, name: &str| field(&self.text(root, file), name).unwrap_or(0);
        match &*self.trees {
            Trees::V2(root) => Usage {
                cpu: self.cpu(),
                // `memory.peak` exists since Linux 5.19.
                memory: number(root, "memory.peak").max(number(root, "memory.current")),
                oom_kills: field(root, "memory.events", "oom_kill"),
                refused_processes: field(root, "pids.events", "max"),
            },
            Trees::V1 { memory, pids, .. } => Usage {
                cpu: self.cpu(),
                memory: number(memory, "memory.max_usage_in_bytes"),
                oom_kills: field(memory, "memory.oom_control", "oom_kill"),
                refused_processes: field(pids, "pids.events", "max"),
            },
        }
    }

    /// Kills all its processes. Returns true when none is left.
    pub(crate) fn end(&self) -> bool {
        end(&self.folders)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        remove(&self.folders);
    }
}

/// Returns the processes in these group folders.
fn processes(folders: &[PathBuf]) -> Vec<Pid> {
    let lines = folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    let mut all: Vec<i32> = lines
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    all.sort_unstable();
    all.dedup();
    // 0 is a process outside of this PID namespace. A signal to 0 would go to our own process group.
    all.into_iter().filter(|pid| *pid > 0).map(Pid::from_raw).collect()
}

/// Kills all processes in these group folders. Returns true when none is left.
pub(super) fn end(folders: &[PathBuf]) -> bool {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let remaining = processes(folders);
        if remaining.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        for process in remaining {
            let _gone = kill(process, Signal::SIGKILL);
        }
        // A killed process leaves its group asynchronously.
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub(super) fn remove(folders: &[PathBuf]) {
    for folder in folders {
        let deadline = Instant::now() + Duration::from_secs(1);
        // EBUSY until the kernel has removed the last dead process from the group.
        while fs::remove_dir(folder).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
