//! Where the batches of a fastmap run.
//!
//! The [`Backend`] trait is the centre: a backend opens a [`Run`] for one [`Job`] (a function of this executable,
//! its context, its label), takes [`Batch`]es and gives [`Completion`]s. Backends see bytes; types, order, retries
//! and budgets live above it, once, in the crate `fastmap`. [`Local`] runs batches in worker processes of this
//! machine. The feature `conformance` adds a kit that tests any implementation.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("fastmap runs on Linux (x86-64, aarch64): it needs pidfd, memfd and the parent-death signal");

#[cfg(feature = "adaptive")]
#[cfg_attr(docsrs, doc(cfg(feature = "adaptive")))]
pub mod adaptive;
mod backend;
#[cfg(feature = "protocol")]
#[cfg_attr(docsrs, doc(cfg(feature = "protocol")))]
pub mod cloud;
#[cfg(feature = "conformance")]
#[cfg_attr(docsrs, doc(cfg(feature = "conformance")))]
pub mod conformance;
mod execution;
#[cfg(all(fuzzing, feature = "protocol"))]
pub mod fuzzing;
pub mod local;
mod model;
pub mod split_after_crash;
#[cfg(feature = "adaptive")]
pub use crate::adaptive::{Adaptive, AdaptiveOptions};
pub use crate::execution::build_id::identity;
#[cfg(feature = "jail")]
pub use crate::execution::build_id::identity_of;
pub use crate::execution::executor::Executor;
#[doc(hidden)]
pub use crate::execution::exit_hook::{ExitHook, register as register_exit_hook};
pub use crate::execution::function::{Descriptor, FunctionId, Start, mapped_function};
pub use crate::execution::job::Job;
pub use crate::execution::startable::startable;
pub use crate::execution::task::{Task, Work};
pub use crate::local::{Local, LocalOptions};
pub use crate::model::batch::{Batch, BatchBuilder, Items, Slots};
pub use crate::model::batch_sizing::{self, Targets};
pub use crate::model::completion::{Completion, Origin, Outcome, Payload, Results};
pub use crate::model::context::{Context, ContextWriter};
pub use crate::model::cost::{Receipt, credits, in_credits};
pub use crate::model::death::{ExitReason, MemoryLimit, Running, WorkerExit, WorkerLoss};
pub use crate::model::error::BackendError;
pub use crate::model::failure::{FailureKind, ItemFailure};
pub use crate::model::hex::hexadecimal;
pub use crate::model::ids::BatchId;
pub use crate::model::ids::JobId;
pub use crate::model::refused_call::RefusedCall;
pub use crate::model::words::{counted, noun};
/// How local workers are confined.
pub use fastmap_sandbox as sandbox;
/// Locks that a panic of another thread does not poison.
pub use fastmap_sandbox::unpoisoned;

pub use crate::backend::{Backend, Capacity, ItemCost, Quote, Readiness, Run, SubmitError};
