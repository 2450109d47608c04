//! Results that outlive the host: answers of workers are recorded, and a map that is started again takes them from there.
//!
//! `journal` is asked by the engine what is recorded before it sends; `recorder` is the thread that writes, `store` the
//! file, `bounded_storage` bounds what a damaged file can cost.
//!
//! A record is a run of consecutive results with a hash of their items. On the way back the items are pulled and encoded
//! as usual, hashed, and answered where the hash is the same; so results keep their order and come as lazily.

mod bounded_storage;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(crate) mod journal;
#[cfg(test)]
mod power_loss;
mod recorder;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use journal::{Checkpoint, Restored};
