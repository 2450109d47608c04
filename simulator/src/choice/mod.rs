//! ADAPTIVE in virtual time: the real policy (`fastmap_backends::adaptive::policy`) beside LOCAL and CLOUD in random worlds.
//!
//! `ranges` says what a world may be and draws it; `worker_group` is a set of workers with a queue (this machine's, or the
//! service's); `simulation` plays one map in one world under one policy; `trial` compares all three;
//! `report` makes a table of many trials.

pub mod ranges;
pub mod report;
pub mod simulation;
pub mod trial;
mod worker_group;

pub use ranges::{Place, Ranges};
pub use report::Report;
pub use simulation::{Mode, SimulatedMap, simulate};
pub use trial::{Trial, trial};
