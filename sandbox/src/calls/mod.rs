//! One list of system calls for the local sandbox and for the service's jails: what each side answers to each
//! call.
//!
//! `list` is the list, as data. `filters` makes both sides' filters from it, `refusal_record` finds names in it, and
//! a test compares docs/local-and-cloud.md with it. A call that is not on the list is newer than the list,
//! and fails on both sides as on an older kernel.

mod arguments;
// The document names the calls of x86-64, of which other processors lack some.
#[cfg(all(test, target_arch = "x86_64"))]
mod document;
mod list;
mod lookup;
mod syscall;

pub(crate) use arguments::{ASKED, WRITING};
pub(crate) use lookup::{answers, find};
pub(crate) use syscall::{Answer, Call, Condition, Side};
