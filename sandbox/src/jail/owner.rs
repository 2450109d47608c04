//! Liveness locks: the kernel releases them however their owner exits. Used for the folders and groups of a
//! service, and for ranges of users.

use std::fs::File;
use std::io;

use nix::fcntl::{Flock, FlockArg};

/// A lock that is held while its owner lives.
pub(super) type Lock = Flock<File>;

/// Locks a file or a folder.
///
/// # Errors
/// If another process holds the lock.
pub(super) fn lock(file: File) -> io::Result<Lock> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}
