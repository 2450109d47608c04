//! The jails of this machine, for tests. Root must make them; another user makes them only in control groups of its own,
//! and where it has none the tests of jails are left out, with the reason.

use fastmap_sandbox::jail::Jail;

#[path = "../../programs/src/skipped.rs"]
#[allow(unreachable_pub, reason = "public where the tests of maps take it from")]
mod skipped;

pub use skipped::{administers, skipped};

/// The jails. `None`: this user can't make any, and the test is left out.
///
/// # Panics
/// If root can't make any.
#[must_use]
pub fn jail() -> Option<Jail> {
    match Jail::check() {
        Ok(jail) => Some(jail),
        Err(refusal) if administers() => panic!("root makes jails: {refusal}"),
        Err(refusal) => {
            skipped(&format!("no jails: {refusal}"));
            None
        }
    }
}

/// For a program all of whose tests take jails: it ends where this user can't make any.
pub fn leave_out_without_jails() {
    if !administers() && jail().is_none() {
        std::process::exit(0);
    }
}
