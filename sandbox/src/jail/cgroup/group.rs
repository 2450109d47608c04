//! One control group, in each tree that it needs: its bounds, what it has used, and its end.

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

/// A group's processes are dead so soon after their SIGKILL, or something is wrong with the machine.
const ENDED: Duration = Duration::from_secs(5);

pub(super) fn set(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| beside(&path, &error))
}

fn beside(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// One group. Dropping it ends what is in it, and removes it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) trees: Arc<Trees>,
    /// Beneath the trees' roots.
    pub(super) name: PathBuf,
    made: Vec<PathBuf>,
    /// Of a service's group: held as long as it is there.
    locks: Vec<Lock>,
    /// The group that it is in. Dropped last: by then this one is removed.
    _above: Option<Arc<Group>>,
}

impl Group {
    pub(super) fn make(trees: &Arc<Trees>, name: PathBuf, above: Option<Arc<Group>>) -> io::Result<Group> {
        let mut group =
            Group { trees: Arc::clone(trees), name, made: Vec::new(), locks: Vec::new(), _above: above };
        for root in trees.roots() {
            let folder = root.join(&group.name);
            fs::create_dir(&folder).map_err(|error| beside(&folder, &error))?;
            group.made.push(folder);
        }
        Ok(group)
    }

    /// A group in this one, of a name that is not used again.
    pub(super) fn beneath(above: &Arc<Group>, name: &str) -> io::Result<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = above.name.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Group::make(&above.trees, name, Some(Arc::clone(above)))
    }

    /// Locks it for a living service.
    ///
    /// # Errors
    /// If another service has taken it for a dead one's meanwhile.
    pub(super) fn lock(mut self) -> io::Result<Group> {
        for folder in &self.made {
            let locked = File::open(folder).and_then(lock).map_err(|error| beside(folder, &error))?;
            self.locks.push(locked);
        }
        // Locked and there: from now on no other service removes it.
        self.made.iter().try_for_each(|folder| fs::metadata(folder).map(drop))?;
        Ok(self)
    }

    /// Gives all jails together the weight of one process for each processor, whatever else runs beside the
    /// service.
    pub(super) fn weigh(&mut self) -> io::Result<()> {
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

    /// Makes it one of an account that is behind its share, or of one that is not: the kernel runs the latter when none of the
    /// former wants to run. A kernel before 5.15 weighs them instead.
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

    /// Bounds the memory of all that is in it and beneath it.
    pub(super) fn bound(&self, bytes: u64) -> io::Result<()> {
        let text = bytes.to_string();
        match &*self.trees {
            Trees::V2(root) => {
                let at = root.join(&self.name);
                set(&at, "memory.max", &text)?;
                // A kernel without swap has no such file, and nothing to bound.
                if at.join("memory.swap.max").exists() {
                    set(&at, "memory.swap.max", "0")?;
                }
                Ok(())
            }
            Trees::V1 { memory, .. } => {
                let at = memory.join(&self.name);
                set(&at, "memory.limit_in_bytes", &text)?;
                // Memory and swap together: no more than memory alone.
                if at.join("memory.memsw.limit_in_bytes").exists() {
                    set(&at, "memory.memsw.limit_in_bytes", &text)
                } else {
                    set(&at, "memory.swappiness", "0")
                }
            }
        }
    }

    /// Makes it one whose bounds hold for the groups in it, together.
    pub(super) fn hand_down(&self) -> io::Result<()> {
        match &*self.trees {
            Trees::V2(root) => set(&root.join(&self.name), "cgroup.subtree_control", "+memory +pids +cpu"),
            Trees::V1 { memory, .. } => {
                let at = memory.join(&self.name);
                // A group is born with the one above's; kernels since 5.11 know no other way.
                let holds = fs::read_to_string(at.join("memory.use_hierarchy"));
                match holds.is_ok_and(|text| text.trim() == "0") {
                    true => set(&at, "memory.use_hierarchy", "1"),
                    false => Ok(()),
                }
            }
        }
    }

    /// What a process writes "0" to, to be in it.
    pub(crate) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &PathBuf| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        self.made.iter().map(|folder| open(folder).map(OwnedFd::from)).collect()
    }

    fn text(&self, root: &Path, file: &str) -> String {
        fs::read_to_string(root.join(&self.name).join(file)).unwrap_or_default()
    }

    /// CPU time of all that ever was in it or beneath it. Asked for with each batch: one file is read.
    pub(crate) fn cpu(&self) -> Duration {
        match &*self.trees {
            Trees::V2(root) => {
                Duration::from_micros(field(&self.text(root, "cpu.stat"), "usage_usec").unwrap_or(0))
            }
            Trees::V1 { cpuacct, .. } => Duration::from_nanos(number(&self.text(cpuacct, "cpuacct.usage"))),
        }
    }

    /// What its processes have used so far, the dead among them included.
    pub(crate) fn usage(&self) -> Usage {
        let number = |root: &Path, file: &str| number(&self.text(root, file));
        let field = |root: &Path, file: &str, name: &str| field(&self.text(root, file), name).unwrap_or(0);
        match &*self.trees {
            Trees::V2(root) => Usage {
                cpu: self.cpu(),
                // memory.peak came with Linux 5.19.
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

    /// Ends all that is in it; true when nothing is left.
    pub(crate) fn end(&self) -> bool {
        end(&self.made)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        remove(&self.made);
    }
}

/// Processes in these folders of groups.
fn processes(folders: &[PathBuf]) -> Vec<Pid> {
    let lines = folders.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    let mut all: Vec<i32> = lines
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    all.sort_unstable();
    all.dedup();
    // 0 stands for a process that this one can't see: a signal to it would go to ourselves.
    all.into_iter().filter(|pid| *pid > 0).map(Pid::from_raw).collect()
}

/// Ends all that is in these folders of groups; true when nothing is left.
pub(super) fn end(folders: &[PathBuf]) -> bool {
    let deadline = Instant::now() + ENDED;
    loop {
        let there = processes(folders);
        if there.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        for process in there {
            let _gone = kill(process, Signal::SIGKILL);
        }
        // A process that was killed leaves its group when the kernel gets to it.
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub(super) fn remove(folders: &[PathBuf]) {
    for folder in folders {
        let deadline = Instant::now() + Duration::from_secs(1);
        // Busy until the last dead process is taken off its books.
        while fs::remove_dir(folder).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
