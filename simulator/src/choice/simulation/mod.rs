//! One map in one world under LOCAL, CLOUD or ADAPTIVE: the same host, sizing rule, workers and network for all three; they
//! differ in what decides where a batch goes.
//!
//! `state` is the loop over events in virtual time, `messages` what is on its way, `answers` what is done with answers, and
//! `sending` the other direction.

mod answers;
mod messages;
mod sending;
mod state;
mod time;

pub use state::{Mode, SimulatedMap, simulate};
