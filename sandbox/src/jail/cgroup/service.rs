//! The groups of one service: made at its start, then for each account, run and worker. Accounts' weights
//! follow their CPU use.

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
use crate::jail::shares::{INTERVAL, Shares};
use crate::jail::spec::{Limits, SetupError};
use crate::memory_group::MemoryGroup;
use crate::unpoisoned::LockUnpoisoned;

/// Prefix of the name of a service's group.
const JAILS: &str = "fastmap-jails-";
const PERIOD_US: u64 = 100_000;
/// Attempts to make a service's group: another service that starts may take a new, unlocked one for a dead
/// service's.
const ATTEMPTS: u32 = 10;

/// The groups of one service.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    service: Arc<Group>,
    accounts: Arc<Mutex<Accounts>>,
}

/// The accounts that have runs.
#[derive(Debug, Default)]
struct Accounts {
    groups: HashMap<i64, Weak<Group>>,
    /// Whether the thread that balances their CPU shares runs. It exits when no account is left.
    balancer_running: bool,
}

impl Cgroups {
    /// Finds the roots in which groups can be made, and makes the service's group.
    ///
    /// # Errors
    /// If neither version can limit memory, processes and CPU on this machine.
    pub(crate) fn find() -> Result<Cgroups, SetupError> {
        let unread = |error: io::Error| SetupError::Cgroups(format!("/proc/self can't be read: {error}"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(unread)?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(unread)?;
        let mut why = Vec::new();
        for found in [v2(&mounts, &own), v1(&mounts, &own)] {
            let tried = found.and_then(|trees| {
                let made = Cgroups::create(&Arc::new(trees));
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

    /// Removes the groups of dead services, and makes this service's group.
    fn create(trees: &Arc<Trees>) -> io::Result<Cgroups> {
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
        service.set_service_weight()?;
        service.limit_memory(memory_limit())?;
        service.delegate()?;
        Ok(Cgroups { service: Arc::new(service), accounts: Arc::default() })
    }

    /// The version in use, for messages.
    pub(crate) fn version(&self) -> &'static str {
        match &*self.service.trees {
            Trees::V2(_) => "v2",
            Trees::V1 { .. } => "v1",
        }
    }

    /// Makes a group for one run of an account, whose runs share `memory` bytes. It is removed when it and
    /// all groups beneath it are dropped; the account's group is removed with its last run's.
    pub(crate) fn run(&self, account: i64, memory: u64) -> io::Result<Arc<Group>> {
        let mut accounts = self.accounts.lock_unpoisoned();
        accounts.groups.retain(|_, group| group.strong_count() > 0);
        let parent = match accounts.groups.get(&account).and_then(Weak::upgrade) {
            Some(group) => group,
            None => {
                // The account's previous group may still be being removed, so this one gets a new name.
                let group = Group::beneath(&self.service, &format!("account-{account}"))?;
                group.limit_memory(memory)?;
                group.delegate()?;
                let group = Arc::new(group);
                accounts.groups.insert(account, Arc::downgrade(&group));
                group
            }
        };
        if !accounts.balancer_running {
            let shared = Arc::clone(&self.accounts);
            let thread = std::thread::Builder::new().name("fastmap-shares".to_owned());
            // If the thread can't be started, accounts have equal weights.
            accounts.balancer_running = thread.spawn(move || balance(&shared)).is_ok();
        }
        drop(accounts);
        let run = Group::beneath(&parent, "run")?;
        run.delegate()?;
        Ok(Arc::new(run))
    }

    /// Makes an empty group for one worker with these limits, in the group of `run` if there is one.
    pub(crate) fn worker(&self, run: Option<&Arc<Group>>, limits: &Limits) -> io::Result<Group> {
        let group = Group::beneath(run.unwrap_or(&self.service), "worker")?;
        group.limit_memory(limits.memory)?;
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

/// Balances accounts by their recent CPU use while any has runs.
fn balance(accounts: &Mutex<Accounts>) {
    let mut shares = Shares::default();
    let (mut last, mut pause) = (Instant::now(), INTERVAL);
    loop {
        std::thread::sleep(pause);
        let groups: Vec<(i64, Arc<Group>)> = {
            let mut accounts = accounts.lock_unpoisoned();
            let live_groups =
                accounts.groups.iter().filter_map(|(account, group)| Some((*account, group.upgrade()?)));
            let live_groups: Vec<_> = live_groups.collect();
            accounts.balancer_running = !live_groups.is_empty();
            live_groups
        };
        if groups.is_empty() {
            return;
        }
        // Reading the one file of a group takes some microseconds. The pause keeps this below a hundredth of
        // a core for any number of groups.
        pause = INTERVAL.max(Duration::from_micros(500) * u32::try_from(groups.len()).unwrap_or(u32::MAX));
        let used: Vec<_> = groups.iter().map(|(account, group)| (*account, group.cpu())).collect();
        let now = Instant::now();
        for (account, favored) in shares.update(now - last, &used) {
            if let Some((_, group)) = groups.iter().find(|(other, _)| *other == account) {
                let _keeps_its_weight = group.favor(favored);
            }
        }
        last = now;
    }
}

/// Prefix of the names of groups whose locks this process can see: those in the same mounted file system. A
/// cgroup namespace mounts another one, with locks of its own.
fn prefix(trees: &Trees) -> String {
    let device =
        trees.roots().first().and_then(|root| fs::metadata(root).ok()).map_or(0, |found| found.dev());
    format!("{JAILS}{device:x}-")
}

/// Memory limit of all jails together: seven eighths of the service's, so that exhausted memory kills a jail
/// and never the service.
fn memory_limit() -> u64 {
    let machine = sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let most = MemoryGroup::own().limit().map_or(machine, |limit| limit.min(machine));
    most / 8 * 7
}

/// Kills and removes the groups of dead services. A living service holds the lock of its group. Process IDs
/// can't identify a living service, because they are reused and differ between namespaces.
fn sweep(root: &Path, prefix: &str) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        // Hold the lock until the group is removed. Otherwise a service that has just made it could lock it
        // meanwhile, and lose it.
        if let Ok(_held) = lock(folder) {
            remove_tree(&entry.path());
        }
    }
}

/// Kills all processes in a group and in those beneath it, and removes the groups.
fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let folders = [folder.to_owned()];
    end(&folders);
    remove(&folders);
}
