//! A map: the iterator of results over an iterator of items.
//!
//! The path of one item: `input` pulls and encodes it (`read_pacing` decides when), `engine` sends its batch
//! and receives the answer, `reorder` restores the order, `results` holds the answers of a batch, and
//! `next()` of `adapter` decodes one. `split_after_crash`, of the backends, divides a lost batch, `attempts` keeps what
//! may be tried again, `crash_abort` decides when a map gives up, `early_stop` ends it at an error or a deadline,
//! and `poll_pacing` says how often `next()` looks at the workers. With the option `inline`, the folder
//! `inline` calls the function in the calling thread while that is the quickest. `builder` has the methods
//! that set up a map before its first item.

pub(crate) mod adapter;
mod attempts;
mod batches;
mod builder;
mod crash_abort;
mod early_stop;
mod engine;
pub(crate) mod inline;
mod input;
mod poll_pacing;
mod read_pacing;
mod reorder;
mod results;
mod unordered;

pub use crate::map::batches::Batches;
pub use crate::map::early_stop::OnError;
pub(crate) use crate::map::engine::{Encode, MapEngine};
#[cfg(fuzzing)]
pub(crate) use crate::map::results::ResultChunk;
pub use crate::map::unordered::Unordered;
pub use adapter::Fastmap;
