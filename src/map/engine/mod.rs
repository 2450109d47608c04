//! The part of a map that knows no types: `planner` sizes batches, `mode` says where items run, `state`
//! reads, sends and ends, `completions` handles the answers of a run.

mod completions;
mod mode;
mod planner;
mod state;

pub(crate) use crate::map::engine::planner::Plan;
pub(crate) use crate::map::engine::state::{Encode, MapEngine, Pulled, Reading};
