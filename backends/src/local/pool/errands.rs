//! What the pool leaves to its supervisor: things that take a file, a descriptor or the relay, which nothing under the
//! pool's lock may wait for. Taken by the supervisor at each round.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::process::watched::Watched;

/// What has come up since the last round.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    /// Processes that are to be looked after.
    pub(crate) arrived: Vec<Watched>,
    /// What is to be closed: on a disk that takes 0.5 ms.
    pub(crate) deferred_close: Vec<ServedRendezvous>,
    /// Warnings that are to be passed on.
    pub(crate) warnings: Vec<String>,
}

/// Where a worker has connected. It is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct ServedRendezvous {
    pub(crate) _server: Arc<Rendezvous>,
    pub(crate) _connection: OwnedFd,
}
