//! ADAPTIVE in virtual time: the real policy (`fastmap_backends::adaptive::policy`) beside LOCAL and CLOUD in random worlds.
//!
//! `ranges` says what a world may be and draws it; `crew` is a set of workers with a queue (this machine's, or the
//! service's); `play` plays one map in one world under one policy; `trial` plays all three and tells what came of it;
//! `report` makes a table of many trials.

mod crew;
pub mod play;
pub mod ranges;
pub mod report;
pub mod trial;

pub use play::{Mode, Played, play};
pub use ranges::{Place, Ranges};
pub use report::Report;
pub use trial::{Trial, trial};
