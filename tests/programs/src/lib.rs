//! What the tests share: starting a program, talking to it, and looking at processes from outside.
//! Used by `tests/*.rs`, which start the programs in `src/bin`, and by those programs. Every wait here has an end.

#![allow(clippy::missing_panics_doc, reason = "all of this is for tests, where a panic is the report")]

mod arguments;
mod control_group;
mod filter;
mod proc;
mod program_file;
mod report;
mod running;
mod skipped;

pub use arguments::Arguments;
pub use control_group::ControlGroup;
pub use filter::refuse;
pub use proc::{
    children, command_line, count_this_process, is_alive, peak_kb, state, status_number, until, workers,
};
pub use program_file::write_program;
pub use report::{Failure, Report, report};
pub use running::{Ended, Running, open_copy, program};
pub use skipped::{administers, skipped};

use std::time::Duration;

/// By then everything is over, also on a machine that does much else. Nothing waits for it where all goes well.
pub const LIMIT: Duration = Duration::from_secs(60);
