//! The worker's side of a map: `entry` says whether a process is a host or a worker, `typed_loop` runs the function over
//! items, `panics` turns a panic into an item's error, and `backtrace` names its frames.

pub(crate) mod backtrace;
pub(crate) mod entry;
pub(crate) mod panics;
pub(crate) mod typed_loop;
