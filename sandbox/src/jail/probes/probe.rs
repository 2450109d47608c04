//! A single probe, and the interpretation of system call results.

use std::io;

/// One forbidden act.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Completes "was able to …" in the report.
    pub name: &'static str,
    pub(crate) act: fn() -> io::Result<()>,
}

impl Probe {
    /// Tries the act.
    ///
    /// # Errors
    /// The denial, which is the expected result in a jail.
    pub fn attempt(&self) -> io::Result<()> {
        (self.act)()
    }
}

/// Converts the return value of a system call to a `Result`.
pub(crate) fn result(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// For calls with invalid arguments: any error other than a denial means that the call was permitted.
pub(crate) fn not_blocked(returned: libc::c_long) -> io::Result<()> {
    match result(returned) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// An error that does not come from a system call.
pub(crate) fn nothing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}

/// Environment variable that makes a process attack its jail.
pub const PROBE: &str = "FASTMAP_JAIL_PROBE";
