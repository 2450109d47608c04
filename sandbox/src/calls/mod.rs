//! One list of system calls for the local sandbox and for the service's jails, with each side's answer to
//! each call.
//!
//! `list` is the list, as data. `filters` compiles both sides' filters from it, `refusal_record` looks up
//! names in it, and a test compares docs/local-and-cloud.md with it. A call that is not on the list is newer
//! than the list, and fails on both sides as on an older kernel.

mod arguments;
// The document names the calls of x86-64; other architectures lack some of them.
#[cfg(all(test, target_arch = "x86_64"))]
mod document;
mod list;
mod lookup;
mod syscall;

pub(crate) use arguments::{MARKER, WRITING};
pub(crate) use lookup::{answers, find};
pub(crate) use syscall::{Answer, Call, Condition, Side};
