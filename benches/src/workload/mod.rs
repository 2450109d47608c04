//! The workloads, one file each: which contestants, what they map, how it is reported. Some run a contestant in a child
//! process of this executable: where the process itself is measured, or ended (`child` starts one, `child_main` is its
//! other side). `list` has all of them by name.

mod break_even;
mod child;
mod child_main;
mod cloud;
mod coarse;
mod confined;
mod crash;
mod idle;
mod infinite;
mod inline;
mod instructions;
mod large;
mod list;
mod memory;
mod reported;
mod start;
mod tiny;
mod uneven;

pub(crate) use child::CHILD;
pub(crate) use child_main::child;
pub(crate) use cloud::Service;
pub(crate) use list::{ALL, choose};
