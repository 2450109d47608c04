//! The policy: which side gets a batch, when the service is contacted, opened and left, and which batches run
//! twice.
//!
//! `decisions` is the state and its decisions. It receives events ([`Event`]) with the seconds since the map
//! started, and answers three questions:
//!
//! - [`Policy::step`]: what to do about the service?
//! - [`Policy::place`]: which side gets the next batch?
//! - [`Policy::repeat`]: which batch should run twice?
//!
//! The same events and questions give the same answers: it has no clock and no randomness. Its state can be
//! printed, and replaying a trace's events reproduces it.
//!
//! `event` is the input and output, `estimates` the statistics of batches, `forecast` the predicted ends.

pub(crate) mod decisions;
mod estimates;
mod event;
mod forecast;
#[cfg(test)]
mod tests;

pub use crate::adaptive::policy::event::{Event, Forecast, Probe, Repeat, Side, Step};
pub use decisions::{Link, Options, Policy, State};
