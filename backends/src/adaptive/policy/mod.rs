//! The policy: which batch goes where, when the service is asked, opened and left, and what is done twice.
//!
//! `decisions` is the state and its decisions: it receives what is seen ([`Event`]) with the seconds since the map began,
//! and answers [`Policy::step`] (what about the service?), [`Policy::place`] (where does the next batch go?) and
//! [`Policy::repeat`] (which batch is to be done twice?). The same events and questions give the same answers: it has no
//! clock and no chance. Its state can be printed, and a trace of the events replays it.
//!
//! `event` is what goes in and out, `estimates` the statistics of batches, `forecast` the predicted ends.

pub(crate) mod decisions;
mod estimates;
mod event;
mod forecast;
#[cfg(test)]
mod tests;

pub use crate::adaptive::policy::event::{Event, Forecast, Probe, Repeat, Side, Step};
pub use decisions::{Link, Options, Policy, State};
