//! Control groups: what bounds the memory, processes and CPU of jails, and measures them. Version 2 where it
//! has the controllers, else version 1; without either nothing is served. Groups are made beneath this
//! process's own, so that what bounds the service bounds its jails, too.
//!
//! A service has one group, beneath it one for each account that has runs, one for each run in that, and one
//! for each worker in that. The kernel shares CPU time among siblings: accounts get equal shares, however
//! many workers each has, and those behind their share run first (`shares`). The service's group is locked as
//! long as the service lives. A group without a lock is a dead service's: the next service ends what is in it
//! and removes it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::Pid;

use super::owner::{Lock, lock};
use super::shares::{FAVOR, LOOK, Shares};
use crate::jail::spec::{Limits, SetupError, Usage};
use crate::memory_group::{MemoryGroup, field, place};

/// A group's processes are dead so soon after their SIGKILL, or something is wrong with the machine.
const ENDED: Duration = Duration::from_secs(5);
/// Where a service moves itself under version 2, which wants processes in the leaves alone.
const SERVICE: &str = "fastmap-service";
/// What the name of a service's group of jails begins with.
const JAILS: &str = "fastmap-jails-";
const PERIOD_US: u64 = 100_000;
/// Attempts to make a service's group: another service that starts may take a new one for a dead service's.
const ATTEMPTS: u32 = 10;

/// Where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trees {
    /// One tree.
    V2(PathBuf),
    /// A tree for each controller.
    V1 { memory: PathBuf, pids: PathBuf, cpu: PathBuf, cpuacct: PathBuf },
}

/// The groups of one service.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    service: Arc<Group>,
    accounts: Arc<Mutex<Accounts>>,
}

/// Accounts that have runs.
#[derive(Debug, Default)]
struct Accounts {
    groups: HashMap<i64, Weak<Group>>,
    /// A thread looks at their shares of the CPUs. It ends when there are none.
    balanced: bool,
}

impl Cgroups {
    /// Finds where groups can be made, and makes the service's.
    ///
    /// # Errors
    /// In words, if neither version can bound memory, processes and CPU here.
    pub(crate) fn find() -> Result<Cgroups, SetupError> {
        let unread = |error: io::Error| SetupError::Cgroups(format!("/proc/self can't be read: {error}"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(unread)?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(unread)?;
        let mut why = Vec::new();
        for found in [v2(&mounts, &own), v1(&mounts, &own)] {
            let tried = found.and_then(|trees| {
                let made = Cgroups::begin(&Arc::new(trees));
                let made = made.and_then(|cgroups| cgroups.worker(None, &Limits::default()).map(|_| cgroups));
                made.map_err(|error| format!("no group can be made: {error}"))
            });
            match tried {
                Ok(cgroups) => return Ok(cgroups),
                Err(reason) => why.push(reason),
            }
        }
        Err(SetupError::Cgroups(why.join("; ")))
    }

    /// Removes what dead services left, and makes this one's group.
    fn begin(trees: &Arc<Trees>) -> io::Result<Cgroups> {
        let prefix = prefix(trees);
        for root in trees.roots() {
            sweep(root, &prefix);
        }
        let mut attempt = 0;
        let mut service = loop {
            let name = format!("{prefix}{:x}", RandomState::new().build_hasher().finish());
            let group = Group::make(trees, PathBuf::from(name), None)?;
            match group.lock() {
                Ok(locked) => break locked,
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        };
        service.weigh()?;
        service.bound(most_memory())?;
        service.hand_down()?;
        Ok(Cgroups { service: Arc::new(service), accounts: Arc::default() })
    }

    /// For people.
    pub(crate) fn version(&self) -> &'static str {
        match &*self.service.trees {
            Trees::V2(_) => "v2",
            Trees::V1 { .. } => "v1",
        }
    }

    /// A group for one run of an account, whose runs share so many bytes of memory. It is removed when it and
    /// all that is beneath it are dropped, and the account's with its last run's.
    pub(crate) fn run(&self, account: i64, memory: u64) -> io::Result<Arc<Group>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.groups.retain(|_, group| group.strong_count() > 0);
        let above = match accounts.groups.get(&account).and_then(Weak::upgrade) {
            Some(group) => group,
            None => {
                // Its last one may be on its way out.
                let group = Group::beneath(&self.service, &format!("account-{account}"))?;
                group.bound(memory)?;
                group.hand_down()?;
                let group = Arc::new(group);
                accounts.groups.insert(account, Arc::downgrade(&group));
                group
            }
        };
        if !accounts.balanced {
            let shared = Arc::clone(&self.accounts);
            let thread = std::thread::Builder::new().name("fastmap-shares".to_owned());
            // Without it accounts have equal weights.
            accounts.balanced = thread.spawn(move || balance(&shared)).is_ok();
        }
        drop(accounts);
        let run = Group::beneath(&above, "run")?;
        run.hand_down()?;
        Ok(Arc::new(run))
    }

    /// A group for one worker with these limits, of a run or of none; no process is in it.
    pub(crate) fn worker(&self, run: Option<&Arc<Group>>, limits: &Limits) -> io::Result<Group> {
        let group = Group::beneath(run.unwrap_or(&self.service), "worker")?;
        group.bound(limits.memory)?;
        let quota = ((limits.cpus * PERIOD_US as f64).max(1000.0) as u64).to_string();
        match &*group.trees {
            Trees::V2(root) => {
                let at = root.join(&group.name);
                set(&at, "memory.oom.group", "1")?;
                set(&at, "pids.max", &limits.processes.to_string())?;
                set(&at, "cpu.max", &format!("{quota} {PERIOD_US}"))?;
            }
            Trees::V1 { pids, cpu, .. } => {
                set(&pids.join(&group.name), "pids.max", &limits.processes.to_string())?;
                let at = cpu.join(&group.name);
                set(&at, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                set(&at, "cpu.cfs_quota_us", &quota)?;
            }
        }
        Ok(group)
    }
}

/// Weighs accounts by what they have used of late, for as long as any has runs.
fn balance(accounts: &Mutex<Accounts>) {
    let mut shares = Shares::default();
    let (mut last, mut pause) = (Instant::now(), LOOK);
    loop {
        std::thread::sleep(pause);
        let groups: Vec<(i64, Arc<Group>)> = {
            let mut accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
            let there =
                accounts.groups.iter().filter_map(|(account, group)| Some((*account, group.upgrade()?)));
            let there: Vec<_> = there.collect();
            accounts.balanced = !there.is_empty();
            there
        };
        if groups.is_empty() {
            return;
        }
        // One file is read for each, some microseconds: of a core it takes a hundredth, however many they are.
        pause = LOOK.max(Duration::from_micros(500) * u32::try_from(groups.len()).unwrap_or(u32::MAX));
        let used: Vec<_> = groups.iter().map(|(account, group)| (*account, group.cpu())).collect();
        let now = Instant::now();
        for (account, favored) in shares.look(now - last, &used) {
            if let Some((_, group)) = groups.iter().find(|(there, _)| *there == account) {
                let _kept_as_it_was = group.favor(favored);
            }
        }
        last = now;
    }
}

impl Trees {
    fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Trees::V2(root) => vec![root],
            Trees::V1 { memory, pids, cpu, cpuacct } => vec![memory, pids, cpu, cpuacct],
        };
        // Controllers may share a tree (`cpu,cpuacct`).
        roots.dedup();
        roots
    }
}

/// What the names of groups begin with whose locks this process can see: one mounted file system's. A
/// namespace of groups mounts another, with locks of its own.
fn prefix(trees: &Trees) -> String {
    let device =
        trees.roots().first().and_then(|root| fs::metadata(root).ok()).map_or(0, |found| found.dev());
    format!("{JAILS}{device:x}-")
}

/// Bytes that all jails together may hold: seven eighths of what the service may, so that it is a jail that
/// ends when memory runs out, never the service.
fn most_memory() -> u64 {
    let machine = sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let most = MemoryGroup::own().limit().map_or(machine, |limit| limit.min(machine));
    most / 8 * 7
}

/// Ends and removes what services left behind that are dead. Their process ids say nothing, for they are used
/// again and mean others in another namespace: a living service holds the lock of its group.
fn sweep(root: &Path, prefix: &str) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        // Held until it is gone: a service that has just made it would lock it meanwhile, and lose it.
        if let Ok(_held) = lock(folder) {
            clear(&entry.path());
        }
    }
}

/// Ends all that is in a group and beneath it, and removes them.
fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear(&entry.path());
        }
    }
    let folders = [folder.to_owned()];
    end(&folders);
    remove(&folders);
}

/// The tree of version 2, with its controllers switched on.
fn v2(mounts: &str, own: &str) -> Result<Trees, String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("cgroup v2 is not there")?;
    let mut root = place(mounts, "cgroup2", "", path).ok_or("cgroup v2 is not mounted")?;
    if root.ends_with(SERVICE) {
        root.pop();
    }
    let wanted = ["memory", "pids", "cpu"];
    let missing = |file: &str| -> Vec<&str> {
        let there = fs::read_to_string(root.join(file)).unwrap_or_default();
        wanted.into_iter().filter(|name| !there.split_whitespace().any(|word| word == *name)).collect()
    };
    let lacks = missing("cgroup.controllers");
    if !lacks.is_empty() {
        return Err(format!(
            "cgroup v2 lacks the controllers {} in {} (under systemd: Delegate=yes)",
            lacks.join(", "),
            root.display()
        ));
    }
    if !missing("cgroup.subtree_control").is_empty() {
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
    Ok(Trees::V2(root))
}

/// The four trees of version 1.
fn v1(mounts: &str, own: &str) -> Result<Trees, String> {
    let find = |controller: &str| {
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            names.split(',').any(|name| name == controller).then_some(path)
        });
        path.and_then(|path| place(mounts, "cgroup", controller, path))
            .ok_or_else(|| format!("cgroup v1 lacks the controller {controller}"))
    };
    Ok(Trees::V1 {
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

/// One group. Dropping it ends what is in it, and removes it.
#[derive(Debug)]
pub(crate) struct Group {
    trees: Arc<Trees>,
    /// Beneath the trees' roots.
    name: PathBuf,
    made: Vec<PathBuf>,
    /// Of a service's group: held as long as it is there.
    locks: Vec<Lock>,
    /// The group that it is in. Dropped last: by then this one is removed.
    _above: Option<Arc<Group>>,
}

impl Group {
    fn make(trees: &Arc<Trees>, name: PathBuf, above: Option<Arc<Group>>) -> io::Result<Group> {
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
    fn beneath(above: &Arc<Group>, name: &str) -> io::Result<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = above.name.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Group::make(&above.trees, name, Some(Arc::clone(above)))
    }

    /// Locks it for a living service.
    ///
    /// # Errors
    /// If another service has taken it for a dead one's meanwhile.
    fn lock(mut self) -> io::Result<Group> {
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
    fn weigh(&mut self) -> io::Result<()> {
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
    fn favor(&self, favored: bool) -> io::Result<()> {
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
    fn bound(&self, bytes: u64) -> io::Result<()> {
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
    fn hand_down(&self) -> io::Result<()> {
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
fn end(folders: &[PathBuf]) -> bool {
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

fn remove(folders: &[PathBuf]) {
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
            Trees::V1 {
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
