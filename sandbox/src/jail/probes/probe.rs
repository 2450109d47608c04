//! One attack on the jail, and what its outcome is read from.

use std::io;

/// One forbidden act.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// In words, for the report: "was able to …".
    pub name: &'static str,
    pub(crate) act: fn() -> io::Result<()>,
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

/// What a system call returned, as a result.
pub(crate) fn result(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// For calls with arguments that can't work: past the gate all the same, unless the gate answered.
pub(crate) fn not_blocked(returned: libc::c_long) -> io::Result<()> {
    match result(returned) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// A refusal that no system call gave.
pub(crate) fn nothing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}

/// Set for a process that is to attack its jail.
pub const PROBE: &str = "FASTMAP_JAIL_PROBE";
