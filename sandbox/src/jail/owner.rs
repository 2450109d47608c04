//! Locks that say that their owner lives: the kernel gives them back however a process ends. Used for the
//! folders and groups of a service, and for ranges of users.

use std::fs::File;
use std::io;

use nix::fcntl::{Flock, FlockArg};

/// Held as long as the owner lives.
pub(super) type Lock = Flock<File>;

/// Locks a file or a folder.
///
/// # Errors
/// If another process holds the lock.
pub(super) fn lock(file: File) -> io::Result<Lock> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}
