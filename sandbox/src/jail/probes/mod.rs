//! Forbidden acts, one function each: a jailed process tries them all and tells which succeeded. Each succeeds where
//! nothing confines it (as root), which the tests show, so that a broken probe can't pass for a good jail.
//!
//! `files`, `network`, `processes` and `kernel` hold them; all are harmless where they succeed.

mod files;
mod kernel;
mod network;
mod processes;

use std::io;

/// One forbidden act.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// In words, for the report: "was able to …".
    pub name: &'static str,
    act: fn() -> io::Result<()>,
}

impl Probe {
    /// Tries it.
    ///
    /// # Errors
    /// How it was refused, which is as it should be in a jail.
    pub fn attempt(&self) -> io::Result<()> {
        (self.act)()
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = Probe> {
    files::ALL.iter().chain(network::ALL).chain(processes::ALL).chain(kernel::ALL).copied()
}

/// What a system call returned, as a result.
fn result(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// For calls with arguments that can't work: past the gate all the same, unless the gate answered.
fn past_the_gate(returned: libc::c_long) -> io::Result<()> {
    match result(returned) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// A refusal that no system call gave.
fn nothing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}
