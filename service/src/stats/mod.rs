//! Statistics of a run over time: throughput, workers, failures.
//!
//! `batch_stats` makes them of the parts of an answer, `series` is the course in slots of time. Neither knows the
//! store that keeps them nor the recorder that brings them there.

mod batch_stats;
mod series;

pub use batch_stats::{Answered, FAILURES, Failure, StatsDelta};
pub use series::{Lane, Point, Series, Slots};
