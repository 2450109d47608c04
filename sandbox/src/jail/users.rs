//! Users that jailed processes are outside of their jails: one for each that runs. A service takes whole
//! ranges of them and locks each, so that no two services of a machine give one user to two workers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::owner::{Lock, lock};
use crate::unpoisoned::LockUnpoisoned;

/// Where ranges are taken from, and how many users one of them has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbers {
    all: Range<u32>,
    range: u32,
}

/// Behind all ranges that systems give to people, services and containers.
const USERS: Numbers = Numbers { all: 0x7000_0000..0x7100_0000, range: 0x1000 };
/// In a user namespace that has 65,536 numbers (a rootless container, one with `hostUsers: false`): behind those that
/// a container gives to people and services, and below those that Debian and systemd keep for themselves.
const USERS_OF_A_CONTAINER: Numbers = Numbers { all: 0xa000..0xe800, range: 0x100 };
/// Where the locks are: root's own folder, or where that can't be written to (`ProtectSystem=strict`) shared
/// memory.
const FOLDERS: [&str; 2] = ["/run/fastmap-users", "/dev/shm/fastmap-users"];

/// What this process holds.
static HELD: Mutex<UserLease> = Mutex::new(UserLease { ranges: BTreeMap::new(), taken: BTreeSet::new() });

#[derive(Debug)]
struct UserLease {
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
    /// If all ranges are other services', no folder can hold their locks, or this user namespace has too few numbers.
    pub(super) fn lease() -> io::Result<User> {
        let numbers = numbers()?;
        let mut held = HELD.lock_unpoisoned();
        let free = |held: &UserLease| {
            let mut all = held.ranges.keys().flat_map(|first| *first..first + numbers.range);
            all.find(|user| !held.taken.contains(user))
        };
        let user = match free(&held) {
            Some(user) => user,
            None => {
                let (first, locked) = take_range(numbers, RandomState::new().build_hasher().finish())?;
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
        HELD.lock_unpoisoned().taken.remove(&self.0);
    }
}

/// This process's ranges and how many others hold, in words. Takes a range if there is none.
///
/// # Errors
/// As [`User::lease`].
pub(super) fn describe() -> io::Result<String> {
    drop(User::lease()?);
    let numbers = numbers()?;
    let held = HELD.lock_unpoisoned();
    let own: Vec<String> =
        held.ranges.keys().map(|first| format!("{first} to {}", first + numbers.range - 1)).collect();
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

/// Where workers' users come from in this process's user namespace.
///
/// # Errors
/// If it has too few numbers.
fn numbers() -> io::Result<&'static Numbers> {
    static NUMBERS: OnceLock<Result<&Numbers, String>> = OnceLock::new();
    let found = NUMBERS.get_or_init(|| {
        let read = |name| fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
        numbers_in(&[read("/proc/self/uid_map")?, read("/proc/self/gid_map")?])
    });
    found.as_ref().copied().map_err(|why| io::Error::other(why.clone()))
}

/// The first of the two places that lies within all of these maps of a user namespace, of users and of groups.
fn numbers_in(maps: &[String; 2]) -> Result<&'static Numbers, String> {
    let within = |wanted: &Range<u32>, map: &str| {
        map.lines().any(|line| {
            let mut columns = line.split_whitespace().map(|column| column.parse::<u64>().unwrap_or(0));
            let (first, _outside, count) = (columns.next(), columns.next(), columns.next().unwrap_or(0));
            first.is_some_and(|first| {
                first <= wanted.start.into() && u64::from(wanted.end) <= first.saturating_add(count)
            })
        })
    };
    let mut places = [&USERS, &USERS_OF_A_CONTAINER].into_iter();
    places.find(|numbers| maps.iter().all(|map| within(&numbers.all, map))).ok_or_else(|| {
        let all = &USERS_OF_A_CONTAINER.all;
        format!(
            "this user namespace has no numbers for them: {} to {} must be mapped, for users and for groups (see \
             /proc/self/uid_map and gid_map): give the container 65536 numbers",
            all.start,
            all.end - 1
        )
    })
}

/// Locks a range that nothing on this machine uses. The search begins anywhere: a service in a container that
/// shares no folder with this one does not begin at the same range.
fn take_range(numbers: &Numbers, begin: u64) -> io::Result<(u32, Lock)> {
    let folder = folder()?;
    let used = users_of_processes();
    let ranges = (numbers.all.end - numbers.all.start) / numbers.range;
    let begin = (begin % u64::from(ranges)) as u32;
    for step in 0..ranges {
        let first = numbers.all.start + (begin + step) % ranges * numbers.range;
        if used.range(first..first + numbers.range).next().is_some() {
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
        let numbers = numbers().expect("numbers for workers");
        let (first, locked) = take_range(numbers, 7).expect("a range");
        let (second, _locked) = take_range(numbers, 7).expect("another range");
        assert_ne!(first, second);
        drop(locked);
        // It goes back to whoever is next.
        let begin = u64::from((first - numbers.all.start) / numbers.range);
        assert_eq!(take_range(numbers, begin).expect("a range").0, first);
    }

    #[test]
    fn users_are_taken_from_the_numbers_that_the_namespace_has() {
        let among = |users: &str, groups: &str| numbers_in(&[users.into(), groups.into()]);
        let whole = "         0          0 4294967295\n";
        let container = "         0     100000      65536\n";
        assert_eq!(among(whole, whole), Ok(&USERS));
        assert_eq!(among(container, container), Ok(&USERS_OF_A_CONTAINER));
        assert_eq!(among(whole, container), Ok(&USERS_OF_A_CONTAINER));
        // A rootless one: root is the user's own, the others are from its range.
        assert_eq!(among("0 1000 1\n1 100000 65536\n", container), Ok(&USERS_OF_A_CONTAINER));
        let refused = among("0 1000 1\n", "0 1000 1\n").expect_err("one number");
        assert!(refused.contains("40960 to 59391"), "{refused}");
        assert!(among("0 100000 65536\n", "0 100000 50000\n").is_err());
    }
}
