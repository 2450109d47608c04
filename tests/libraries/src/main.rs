//! Functions that use runtimes, allocators, native libraries and the system's data. One program of them is
//! run with each policy, and what it prints is compared line by line:
//!
//! - `libraries map GROUP COPIES [FILE…]` maps the acts of a group under the policy of its environment, and
//!   prints of each item where it was computed and what the act said. The files are the map's context.
//! - `libraries plain GROUP COPIES [FILE…]` does them in this process, one after the other.
//! - `libraries compare DOCUMENT FILE…` runs the others under each policy, compares, and writes the table
//!   into the document. A service's secret and address are in its environment. `scripts/try-libraries` calls
//!   it.
#![allow(non_snake_case, reason = "the libraries' own names")]

mod acts;
mod compare;
#[path = "../../../sandbox/tests/world/data.rs"]
mod data;
#[path = "../../../sandbox/tests/world/library.rs"]
mod library;
#[path = "../../../sandbox/tests/world/native.rs"]
mod native;
mod perform;
mod table;

use std::error::Error;
use std::io;

/// Something that a function does.
pub(crate) struct Act {
    pub(crate) name: &'static str,
    /// What it says, in part.
    pub(crate) says: &'static str,
    pub(crate) act: fn() -> String,
}

pub(crate) const fn act(name: &'static str, says: &'static str, act: fn() -> String) -> Act {
    Act { name, says, act }
}

/// Said by an act that needs a library which this machine has not.
pub(crate) const ABSENT: &str = "not on this machine";

/// An error by its number: the words around it are the caller's.
pub(crate) fn error(error: &io::Error) -> String {
    format!("error {}", error.raw_os_error().unwrap_or(-1))
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["map", group, copies, files @ ..] => perform::by_map(group, copies.parse()?, files),
        ["plain", group, copies, files @ ..] => perform::plainly(group, copies.parse()?, files),
        ["compare", document, files @ ..] => compare::all(document, files),
        other => Err(format!("map, plain or compare, not {other:?}").into()),
    }
}

fastmap::fastmap_main!(run);
