//! Control groups: what bounds a jail's memory, processes and CPU, and measures them. Version 2 where it has the
//! controllers, else version 1; without either nothing is served. Groups are made beneath this process's own, so that
//! what bounds the service bounds its jails, too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Limits, Refusal, Usage};
use crate::memory_group::{field, place};

/// A group's processes are dead so soon after their SIGKILL, or something is wrong with the machine.
const ENDED: Duration = Duration::from_secs(5);
/// Where a service moves itself under version 2, which wants processes in the leaves alone.
const SERVICE: &str = "fastmap-service";
const PERIOD_US: u64 = 100_000;

/// Where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// One tree.
    V2(PathBuf),
    /// A tree for each controller.
    V1 { memory: PathBuf, pids: PathBuf, cpu: PathBuf, cpuacct: PathBuf },
}

impl Cgroups {
    /// Finds them, and tries them.
    ///
    /// # Errors
    /// In words, if neither version can bound memory, processes and CPU here.
    pub(crate) fn find() -> Result<Cgroups, Refusal> {
        let unread = |error: io::Error| Refusal::Cgroups(format!("/proc/self can't be read: {error}"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(unread)?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(unread)?;
        let mut why = Vec::new();
        for found in [v2(&mounts, &own), v1(&mounts, &own)] {
            let tried = found.and_then(|cgroups| {
                cgroups.sweep();
                let made = cgroups.make(&Limits::default());
                made.map(|_| cgroups).map_err(|error| format!("no group can be made: {error}"))
            });
            match tried {
                Ok(cgroups) => return Ok(cgroups),
                Err(reason) => why.push(reason),
            }
        }
        Err(Refusal::Cgroups(why.join("; ")))
    }

    /// For people.
    pub(crate) fn version(&self) -> &'static str {
        match self {
            Cgroups::V2(_) => "v2",
            Cgroups::V1 { .. } => "v1",
        }
    }

    fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Cgroups::V2(root) => vec![root],
            Cgroups::V1 { memory, pids, cpu, cpuacct } => vec![memory, pids, cpu, cpuacct],
        };
        // Controllers may share a tree (`cpu,cpuacct`).
        roots.dedup();
        roots
    }

    /// Makes a group with these limits; nobody is in it.
    pub(crate) fn make(&self, limits: &Limits) -> io::Result<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fastmap-{}-{number}", std::process::id());
        let mut group = Group { cgroups: self.clone(), name, made: Vec::new() };
        for root in self.roots() {
            let folder = root.join(&group.name);
            fs::create_dir(&folder).map_err(|error| beside(&folder, &error))?;
            group.made.push(folder);
        }
        let quota = (limits.cpus * PERIOD_US as f64).max(1000.0) as u64;
        match self {
            Cgroups::V2(root) => {
                let at = root.join(&group.name);
                set(&at, "memory.max", &limits.memory.to_string())?;
                // A kernel without swap has no such file, and nothing to bound.
                if at.join("memory.swap.max").exists() {
                    set(&at, "memory.swap.max", "0")?;
                }
                set(&at, "memory.oom.group", "1")?;
                set(&at, "pids.max", &limits.processes.to_string())?;
                set(&at, "cpu.max", &format!("{quota} {PERIOD_US}"))?;
            }
            Cgroups::V1 { memory, pids, cpu, .. } => {
                let at = memory.join(&group.name);
                let bytes = limits.memory.to_string();
                set(&at, "memory.limit_in_bytes", &bytes)?;
                // Memory and swap together: no more than memory alone.
                if at.join("memory.memsw.limit_in_bytes").exists() {
                    set(&at, "memory.memsw.limit_in_bytes", &bytes)?;
                } else {
                    set(&at, "memory.swappiness", "0")?;
                }
                set(&pids.join(&group.name), "pids.max", &limits.processes.to_string())?;
                let at = cpu.join(&group.name);
                set(&at, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                set(&at, "cpu.cfs_quota_us", &quota.to_string())?;
            }
        }
        Ok(group)
    }

    /// Removes what services left behind that were killed. Their jails died with them: a group that is not empty is
    /// somebody else's, whose process ids mean others here.
    fn sweep(&self) {
        for root in self.roots() {
            for entry in fs::read_dir(root).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| name.strip_prefix("fastmap-")?.split('-').next());
                let owner = owner.and_then(|owner| owner.parse::<u32>().ok());
                if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
                    let _not_empty = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// The tree of version 2, with its controllers switched on.
fn v2(mounts: &str, own: &str) -> Result<Cgroups, String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("cgroup v2 is not there")?;
    let mut root = place(mounts, "cgroup2", "", path).ok_or("cgroup v2 is not mounted")?;
    if root.ends_with(SERVICE) {
        root.pop();
    }
    let wanted = ["memory", "pids", "cpu"];
    let lacking = |file: &str| -> Vec<&str> {
        let there = fs::read_to_string(root.join(file)).unwrap_or_default();
        wanted.into_iter().filter(|name| !there.split_whitespace().any(|word| word == *name)).collect()
    };
    let lacks = lacking("cgroup.controllers");
    if !lacks.is_empty() {
        return Err(format!("cgroup v2 lacks the controllers {}", lacks.join(", ")));
    }
    if !lacking("cgroup.subtree_control").is_empty() {
        let leave = || -> io::Result<()> {
            if fs::write(root.join("cgroup.subtree_control"), "+memory +pids +cpu").is_ok() {
                return Ok(());
            }
            // Version 2 has no processes beside groups: move to a leaf, as every manager of containers does.
            let leaf = root.join(SERVICE);
            fs::create_dir_all(&leaf)?;
            for process in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
                fs::write(leaf.join("cgroup.procs"), process)?;
            }
            fs::write(root.join("cgroup.subtree_control"), "+memory +pids +cpu")
        };
        leave().map_err(|error| {
            format!(
                "cgroup v2 does not hand its controllers to {} ({error}; under systemd: Delegate=yes)",
                root.display()
            )
        })?;
    }
    Ok(Cgroups::V2(root))
}

/// The four trees of version 1.
fn v1(mounts: &str, own: &str) -> Result<Cgroups, String> {
    let find = |controller: &str| {
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            names.split(',').any(|name| name == controller).then_some(path)
        });
        path.and_then(|path| place(mounts, "cgroup", controller, path))
            .ok_or_else(|| format!("cgroup v1 lacks the controller {controller}"))
    };
    Ok(Cgroups::V1 {
        memory: find("memory")?,
        pids: find("pids")?,
        cpu: find("cpu")?,
        cpuacct: find("cpuacct")?,
    })
}

fn set(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| beside(&path, &error))
}

fn beside(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The group of one jail. Dropping it ends what is in it, and removes it.
#[derive(Debug)]
pub(crate) struct Group {
    cgroups: Cgroups,
    name: String,
    made: Vec<PathBuf>,
}

impl Group {
    /// What a process writes "0" to, to be in it.
    pub(crate) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &PathBuf| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"));
        self.made.iter().map(|folder| open(folder).map(OwnedFd::from)).collect()
    }

    fn text(&self, root: &Path, file: &str) -> String {
        fs::read_to_string(root.join(&self.name).join(file)).unwrap_or_default()
    }

    /// CPU time of its processes so far, the dead among them included. Asked for with each batch: one file is read.
    pub(crate) fn cpu(&self) -> Duration {
        match &self.cgroups {
            Cgroups::V2(root) => {
                Duration::from_micros(field(&self.text(root, "cpu.stat"), "usage_usec").unwrap_or(0))
            }
            Cgroups::V1 { cpuacct, .. } => Duration::from_nanos(number(&self.text(cpuacct, "cpuacct.usage"))),
        }
    }

    /// What its processes have used so far, the dead among them included.
    pub(crate) fn usage(&self) -> Usage {
        let number = |root: &Path, file: &str| number(&self.text(root, file));
        let field = |root: &Path, file: &str, name: &str| field(&self.text(root, file), name).unwrap_or(0);
        match &self.cgroups {
            Cgroups::V2(root) => Usage {
                cpu: self.cpu(),
                // memory.peak came with Linux 5.19.
                memory: number(root, "memory.peak").max(number(root, "memory.current")),
                oom_kills: field(root, "memory.events", "oom_kill"),
                refused_processes: field(root, "pids.events", "max"),
            },
            Cgroups::V1 { memory, pids, .. } => Usage {
                cpu: self.cpu(),
                memory: number(memory, "memory.max_usage_in_bytes"),
                oom_kills: field(memory, "memory.oom_control", "oom_kill"),
                refused_processes: field(pids, "pids.events", "max"),
            },
        }
    }

    fn processes(&self) -> Vec<Pid> {
        let lines =
            self.made.iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
        let mut all: Vec<i32> = lines
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.sort_unstable();
        all.dedup();
        // 0 stands for a process that this one can't see: a signal to it would go to ourselves.
        all.into_iter().filter(|pid| *pid > 0).map(Pid::from_raw).collect()
    }

    /// Ends all that is in it; true when nothing is left.
    pub(crate) fn end(&self) -> bool {
        let deadline = Instant::now() + ENDED;
        loop {
            let there = self.processes();
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
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        for folder in &self.made {
            let deadline = Instant::now() + Duration::from_secs(1);
            // Busy until the last dead process is taken off its books.
            while fs::remove_dir(folder).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
35 25 0:30 / /sys/fs/cgroup ro - tmpfs tmpfs ro
36 35 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
37 35 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
38 35 0:33 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 35 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";

    #[test]
    fn each_controller_is_found_where_it_is_mounted() {
        let own = "4:memory:/docker/1\n3:cpu,cpuacct:/\n2:pids:/\n0::/";
        let found = v1(MOUNTS, own).expect("all four are there");
        let at = |name: &str| PathBuf::from(format!("/sys/fs/cgroup/{name}"));
        assert_eq!(
            found,
            Cgroups::V1 {
                memory: at("memory"),
                pids: at("pids"),
                cpu: at("cpu,cpuacct"),
                cpuacct: at("cpu,cpuacct")
            }
        );
        assert_eq!(found.roots().len(), 3);
        assert!(v1(MOUNTS, "2:pids:/").expect_err("no memory").contains("memory"));
    }

    #[test]
    fn a_machine_with_neither_version_is_told_what_is_lacking() {
        assert!(v2("", "0::/").expect_err("nothing is mounted").contains("not mounted"));
        assert!(v2("", "1:name=systemd:/").expect_err("no version 2").contains("not there"));
    }
}
