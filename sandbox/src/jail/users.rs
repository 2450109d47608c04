//! Users that jailed processes are outside of their jails: one for each that runs. A service takes whole
//! ranges of them and locks each, so that no two services of a machine give one user to two workers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::owner::{Lock, lock};

/// Behind all ranges that systems give to people, services and containers.
const USERS: Range<u32> = 0x7000_0000..0x7100_0000;
/// Users of one range.
const RANGE: u32 = 0x1000;
/// Where the locks are: root's own folder, or where that can't be written to (`ProtectSystem=strict`) shared
/// memory.
const FOLDERS: [&str; 2] = ["/run/fastmap-users", "/dev/shm/fastmap-users"];

/// What this process holds.
static HELD: Mutex<Held> = Mutex::new(Held { ranges: BTreeMap::new(), taken: BTreeSet::new() });

#[derive(Debug)]
struct Held {
    /// The lock of each range, by its first user.
    ranges: BTreeMap<u32, Lock>,
    taken: BTreeSet<u32>,
}

/// A user of no other process; given back when it is dropped.
#[derive(Debug)]
pub(super) struct User(u32);

impl User {
    /// Takes one; with the first one, and whenever all are in use, a range.
    ///
    /// # Errors
    /// If all ranges are other services', or no folder can hold their locks.
    pub(super) fn lease() -> io::Result<User> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |held: &Held| {
            let mut all = held.ranges.keys().flat_map(|first| *first..first + RANGE);
            all.find(|user| !held.taken.contains(user))
        };
        let user = match free(&held) {
            Some(user) => user,
            None => {
                let (first, locked) = take_range(RandomState::new().build_hasher().finish())?;
                held.ranges.insert(first, locked);
                first
            }
        };
        held.taken.insert(user);
        Ok(User(user))
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for User {
    fn drop(&mut self) {
        HELD.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&self.0);
    }
}

/// This process's ranges and how many others hold, in words. Takes a range if there is none.
///
/// # Errors
/// As [`User::lease`].
pub(super) fn describe() -> io::Result<String> {
    drop(User::lease()?);
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let own: Vec<String> =
        held.ranges.keys().map(|first| format!("{first} to {}", first + RANGE - 1)).collect();
    let folder = folder()?;
    let others = fs::read_dir(&folder)?.flatten().filter(|entry| {
        let other = entry.file_name().to_str().is_some_and(|name| {
            u32::from_str_radix(name, 16).is_ok_and(|first| !held.ranges.contains_key(&first))
        });
        other && File::open(entry.path()).is_ok_and(|file| lock(file).is_err())
    });
    Ok(format!(
        "{} (locked in {}); {} ranges are other services'",
        own.join(", "),
        folder.display(),
        others.count()
    ))
}

/// The first of the folders that is root's alone: in one of somebody else's the locks would be, too.
fn folder() -> io::Result<PathBuf> {
    let usable = |folder: &PathBuf| {
        let _made = DirBuilder::new().mode(0o700).create(folder);
        let own = fs::symlink_metadata(folder)
            .is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0);
        own && tempfile::tempfile_in(folder).is_ok()
    };
    FOLDERS.map(PathBuf::from).into_iter().find(usable).ok_or_else(|| {
        io::Error::other(format!(
            "no folder for the locks of workers' users: {} can't be made",
            FOLDERS.join(" nor ")
        ))
    })
}

/// Locks a range that nothing on this machine uses. The search begins anywhere: a service in a container that
/// shares no folder with this one does not begin at the same range.
fn take_range(begin: u64) -> io::Result<(u32, Lock)> {
    let folder = folder()?;
    let used = users_of_processes();
    let ranges = (USERS.end - USERS.start) / RANGE;
    let begin = (begin % u64::from(ranges)) as u32;
    for step in 0..ranges {
        let first = USERS.start + (begin + step) % ranges * RANGE;
        if used.range(first..first + RANGE).next().is_some() {
            continue;
        }
        if let Ok(locked) = lock(File::create(folder.join(format!("{first:x}")))?) {
            return Ok((first, locked));
        }
    }
    Err(io::Error::other("all ranges of workers' users are other services'"))
}

/// Users of this machine's processes, as far as they can be seen.
fn users_of_processes() -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let status = processes.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    let user = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    status.filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_services_that_begin_at_the_same_range_take_two() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let (first, locked) = take_range(7).expect("a range");
        let (second, _locked) = take_range(7).expect("another range");
        assert_ne!(first, second);
        drop(locked);
        // It goes back to whoever is next.
        assert_eq!(take_range(u64::from((first - USERS.start) / RANGE)).expect("a range").0, first);
    }
}
