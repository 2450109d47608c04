//! Values that all backends exchange: batches, frames, completions, failures, exits, costs. Independent of
//! any backend, except for two helpers of `local` (`Taken` in `completion`, `fill_standard` in `context`).

pub(crate) mod batch;
pub mod batch_sizing;
pub(crate) mod buffer_pool;
pub(crate) mod completion;
pub(crate) mod completion_queue;
pub(crate) mod context;
pub(crate) mod cost;
pub(crate) mod death;
pub(crate) mod error;
pub(crate) mod failure;
pub(crate) mod frame;
pub(crate) mod frame_kind;
pub(crate) mod hex;
pub(crate) mod ids;
pub(crate) mod log_level;
pub(crate) mod protocol_error;
pub(crate) mod refused_call;
pub(crate) mod result_credit;
pub(crate) mod text;
pub(crate) mod words;
