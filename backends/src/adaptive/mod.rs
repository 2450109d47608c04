//! ADAPTIVE: runs each batch on the side where the whole map ends soonest.
//!
//! - `policy` decides, based only on recorded events: no clock, no I/O, no thread. `in_flight` is the table
//!   of the batches that both sides have. `simulator/` runs the same code in virtual time over thousands of
//!   random worlds.
//! - `run` applies both to two real runs, its `sides`; `run/service_link` opens and leaves the service.
//! - `quote` converts the prices of a service; `summary` formats the map's messages; `service_limits`
//!   recognizes rejections by a service's own limits.
//! - `trace` writes events and decisions to a file, and `explain` formats such a file as text.
//! - `backend` implements the trait, with its `options`.

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
