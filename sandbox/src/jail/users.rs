//! User IDs of jailed processes outside of their jails, one for each running process. A service takes whole
//! ranges of them and locks each range, so that no two services of a machine give one user to two workers.

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

/// The numbers from which ranges are taken, and the size of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbers {
    all: Range<u32>,
    range: u32,
}

/// Above all ranges that systems assign to people, services and containers.
const USERS: Numbers = Numbers { all: 0x7000_0000..0x7100_0000, range: 0x1000 };
/// For a user namespace of 65,536 numbers (a rootless container, or one with `hostUsers: false`): above those
/// that a container assigns to people and services, and below those that Debian and systemd reserve.
const USERS_OF_A_CONTAINER: Numbers = Numbers { all: 0xa000..0xe800, range: 0x100 };
/// Folders of the locks: root's own folder, or shared memory if that one is not writable
/// (`ProtectSystem=strict`).
const FOLDERS: [&str; 2] = ["/run/fastmap-users", "/dev/shm/fastmap-users"];

/// The ranges and users that this process has leased.
static LEASES: Mutex<Leases> = Mutex::new(Leases { ranges: BTreeMap::new(), taken: BTreeSet::new() });

#[derive(Debug)]
struct Leases {
    /// The lock of each range, keyed by its first user.
    ranges: BTreeMap<u32, Lock>,
    taken: BTreeSet<u32>,
}

/// A user that no other process has; released on drop.
#[derive(Debug)]
pub(super) struct User(u32);

impl User {
    /// Takes a free user. Takes a new range first if all users of this process's ranges are in use.
    ///
    /// # Errors
    /// If other services hold all ranges, no folder can hold the locks, or this user namespace has too few
    /// numbers.
    pub(super) fn lease() -> io::Result<User> {
        let numbers = numbers()?;
        let mut leases = LEASES.lock_unpoisoned();
        let free = |leases: &Leases| {
            let mut all = leases.ranges.keys().flat_map(|first| *first..first + numbers.range);
            all.find(|user| !leases.taken.contains(user))
        };
        let user = match free(&leases) {
            Some(user) => user,
            None => {
                let (first, locked) = take_range(numbers, RandomState::new().build_hasher().finish())?;
                leases.ranges.insert(first, locked);
                first
            }
        };
        leases.taken.insert(user);
        Ok(User(user))
    }

    /// The user ID.
    pub(super) fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for User {
    fn drop(&mut self) {
        LEASES.lock_unpoisoned().taken.remove(&self.0);
    }
}

/// Describes this process's ranges, and the number of ranges of other services. Takes a range if it has none.
///
/// # Errors
/// As [`User::lease`].
pub(super) fn describe() -> io::Result<String> {
    drop(User::lease()?);
    let numbers = numbers()?;
    let leases = LEASES.lock_unpoisoned();
    let own: Vec<String> =
        leases.ranges.keys().map(|first| format!("{first} to {}", first + numbers.range - 1)).collect();
    let folder = folder()?;
    let others = fs::read_dir(&folder)?.flatten().filter(|entry| {
        let other = entry.file_name().to_str().is_some_and(|name| {
            u32::from_str_radix(name, 16).is_ok_and(|first| !leases.ranges.contains_key(&first))
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

/// The first of the folders that only root can write to: the owner of another folder could replace the locks.
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

/// The numbers for workers' users in this process's user namespace.
///
/// # Errors
/// If the namespace has too few numbers.
fn numbers() -> io::Result<&'static Numbers> {
    static NUMBERS: OnceLock<Result<&Numbers, String>> = OnceLock::new();
    let found = NUMBERS.get_or_init(|| {
        let read = |name| fs::read_to_string(name).map_err(|error| format!("{name}: {error}"));
        numbers_in(&[read("/proc/self/uid_map")?, read("/proc/self/gid_map")?])
    });
    found.as_ref().copied().map_err(|why| io::Error::other(why.clone()))
}

/// The first of the two sets of numbers that is contained in both maps of a user namespace, of users and of
/// groups.
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

/// Locks a range that no process on this machine uses. The search starts at a random range, so that a service
/// in a container that shares no lock folder with this one starts elsewhere.
fn take_range(numbers: &Numbers, start: u64) -> io::Result<(u32, Lock)> {
    let folder = folder()?;
    let used = users_of_processes();
    let ranges = (numbers.all.end - numbers.all.start) / numbers.range;
    let start = (start % u64::from(ranges)) as u32;
    for step in 0..ranges {
        let first = numbers.all.start + (start + step) % ranges * numbers.range;
        if used.range(first..first + numbers.range).next().is_some() {
            continue;
        }
        if let Ok(locked) = lock(File::create(folder.join(format!("{first:x}")))?) {
            return Ok((first, locked));
        }
    }
    Err(io::Error::other("all ranges of workers' users are other services'"))
}

/// Users of all visible processes of this machine.
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
        // A released range can be taken again.
        let start = u64::from((first - numbers.all.start) / numbers.range);
        assert_eq!(take_range(numbers, start).expect("a range").0, first);
    }

    #[test]
    fn users_are_taken_from_the_numbers_that_the_namespace_has() {
        let among = |users: &str, groups: &str| numbers_in(&[users.into(), groups.into()]);
        let whole = "         0          0 4294967295\n";
        let container = "         0     100000      65536\n";
        assert_eq!(among(whole, whole), Ok(&USERS));
        assert_eq!(among(container, container), Ok(&USERS_OF_A_CONTAINER));
        assert_eq!(among(whole, container), Ok(&USERS_OF_A_CONTAINER));
        // A rootless container: root is the user itself, the others are from its subordinate range.
        assert_eq!(among("0 1000 1\n1 100000 65536\n", container), Ok(&USERS_OF_A_CONTAINER));
        let refused = among("0 1000 1\n", "0 1000 1\n").expect_err("one number");
        assert!(refused.contains("40960 to 59391"), "{refused}");
        assert!(among("0 100000 65536\n", "0 100000 50000\n").is_err());
    }
}
