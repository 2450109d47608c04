//! Errors that end a run. Failures of single items are answers, not errors.

use std::error::Error;
use std::io;

use crate::model::death::WorkerExit;
use crate::model::failure::ItemFailure;

/// An error that ends a run, and with it the map. All other failures are answers of items. Exhaustive, so
/// that the map has an error kind for each.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Workers die before they can work, or can't be started at all.
    #[error("no worker can be kept alive: {}", list(.0))]
    NoWorkers(Vec<WorkerExit>),
    /// A worker could not prepare the function: its context or its `init` failed.
    #[error("the function could not be prepared: {}", .0.message)]
    Setup(ItemFailure),
    /// The configuration belongs to another process, of which this one is a fork.
    #[error(
        "the workers belong to process {owner}, of which this process ({this}) is a fork; call fastmap::init here"
    )]
    Forked {
        /// The process that created the workers.
        owner: u32,
        /// This process.
        this: u32,
    },
    /// A system call failed.
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
    /// The service, or the connection to it, failed.
    #[error("{0}")]
    Cloud(String, #[source] Option<Box<dyn Error + Send + Sync>>),
    /// An error specific to a backend.
    #[error("{0}")]
    Other(String),
}

/// Lists each kind of exit once, with the number of workers that ended so.
fn list(deaths: &[WorkerExit]) -> String {
    let mut groups: Vec<(&WorkerExit, usize)> = Vec::new();
    for death in deaths {
        match groups.iter_mut().find(|(first, _)| first.look() == death.look()) {
            Some((_, more)) => *more += 1,
            None => groups.push((death, 0)),
        }
    }
    let texts = groups.into_iter().map(|(death, more)| match more {
        0 => death.to_string(),
        1 => format!("{death} (and one more in the same way)"),
        _ => format!("{death} (and {more} more in the same way)"),
    });
    texts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::death::ExitReason;

    #[test]
    fn equal_exits_are_listed_once() {
        let died = |number: u32, code| WorkerExit {
            worker: format!("worker-{number}"),
            pid: number,
            cause: ExitReason::Exit(code),
            refused: None,
            stderr: vec!["no licence".to_owned()],
        };
        let deaths = [died(1, 1), died(2, 1), died(3, 2), died(4, 1)];
        assert_eq!(
            BackendError::NoWorkers(deaths.to_vec()).to_string(),
            "no worker can be kept alive: worker worker-1 (process 1) ended by exit(1); it last wrote: no licence (and 2 more \
             in the same way); worker worker-3 (process 3) ended by exit(2); it last wrote: no licence"
        );
    }
}
