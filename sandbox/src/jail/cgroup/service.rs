//! The groups of one service: made at its start, one for each account, run and worker, weighed by what accounts use.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use nix::sys::sysinfo::sysinfo;

use crate::jail::cgroup::group::{Group, end, remove, set};
use crate::jail::cgroup::hierarchy::{Trees, v1, v2};
use crate::jail::owner::lock;
use crate::jail::shares::{LOOK, Shares};
use crate::jail::spec::{Limits, SetupError};
use crate::memory_group::MemoryGroup;
use crate::unpoisoned::LockUnpoisoned;

/// What the name of a service's group of jails begins with.
const JAILS: &str = "fastmap-jails-";
const PERIOD_US: u64 = 100_000;
/// Attempts to make a service's group: another service that starts may take a new one for a dead service's.
const ATTEMPTS: u32 = 10;

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
        let mut accounts = self.accounts.lock_unpoisoned();
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
            let mut accounts = accounts.lock_unpoisoned();
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
