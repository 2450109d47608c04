//! ADAPTIVE: each batch where the whole map ends soonest.
//!
//! `policy` decides, from what was seen alone: no clock, no I/O, no thread. `held` is what both sides have. The same code
//! is played in virtual time over thousands of random worlds by `simulator/`. `run` applies both to two real runs, its
//! `sides`, and has the service asked and left in `run/service_link`; `quote` is what a service costs, `summary` what is said of the map;
//! `service_limits` recognizes what a service's own limits refuse, `trace` writes what was seen and decided, and `explain`
//! words it. `backend` implements the trait, with its `options`.

pub(crate) mod backend;
mod explain;
pub mod in_flight;
pub(crate) mod options;
pub mod policy;
mod quote;
mod run;
mod service_limits;
mod sides;
mod summary;
mod trace;

pub use crate::adaptive::explain::explain;
pub use crate::adaptive::options::{AdaptiveOptions, DecisionObserver};
pub use backend::Adaptive;
