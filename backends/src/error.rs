//! Why a backend can't go on. Errors of single items are no part of this: they are answers.

use std::error::Error;
use std::io;

use crate::completion::{Death, ItemFailure};

/// What ends a run. Only this ends a map; everything else is answered at its item.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Workers die before they can work, or can't be started at all.
    #[error("no worker can be kept alive: {}", list(.0))]
    NoWorkers(Vec<Death>),
    /// A worker could not prepare the function: its context or its `init` failed.
    #[error("the function could not be prepared: {}", .0.message)]
    Setup(ItemFailure),
    /// The configuration belongs to another process (this one is a fork of it).
    #[error(
        "the workers belong to process {owner}, of which this process ({this}) is a fork; call fastmap::init here"
    )]
    Forked {
        /// The process that made the workers.
        owner: u32,
        /// This process.
        this: u32,
    },
    /// The system refused something.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// The service does not accept the secret.
    #[error("{0}")]
    Unauthorized(String),
    /// The account, or the run's share of it, is spent.
    #[error("{0}")]
    OutOfCredits(String),
    /// The charges were not confirmed.
    #[error("{0}")]
    Declined(String),
    /// The service, or the way to it, failed.
    #[error("{0}")]
    Cloud(String, #[source] Option<Box<dyn Error + Send + Sync>>),
    /// A backend's own reason.
    #[error("{0}")]
    Other(String),
}

fn list(deaths: &[Death]) -> String {
    deaths.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
