//! What surrounds the rule: how many workers, how they come, and what messages cost. Plain data, made by the
//! experiments, read by the engine.

use std::time::Duration;

use crate::clock::{Nanos, nanos};

/// Workers, and what it costs to reach them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct World {
    /// Workers at most.
    pub workers: usize,
    /// How they come.
    pub start: Start,
    /// From the host to a worker, or back, for any message.
    pub one_way: Duration,
    /// Whether the host can see which item a worker runs (the page that it shares with workers of its own machine).
    pub page: bool,
    /// What the host's one thread spends.
    pub host: HostCosts,
    /// What a worker spends on a batch beside its items: taking it, sending the answer.
    pub worker_batch: Duration,
    /// Bytes of one item, and of one result.
    pub bytes: (usize, usize),
}

/// How workers come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// They were there before the map.
    Warm,
    /// Processes of this machine, started one after another as there is work for them.
    Spawned {
        /// From one start to the next.
        gap: Duration,
        /// From a worker's start to its greeting.
        ready: Duration,
    },
}

impl Start {
    /// When a worker, counted from 0, is ready, if it is asked for at once.
    pub fn ready(&self, worker: usize) -> Nanos {
        match self {
            Start::Warm => 0,
            Start::Spawned { gap, ready } => nanos(*gap) * (worker as Nanos + 1) + nanos(*ready),
        }
    }
}

/// Host time. The host is *one* server: what arrives while it is busy waits. In truth a thread for each worker reads
/// its answers, so that on a machine with many cores this is too strict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostCosts {
    /// To decide about a batch and send it, or to send any other message.
    pub send: Duration,
    /// To take a message, and do what it asks for.
    pub receive: Duration,
    /// To pull and encode an item and to decode its result.
    pub item: Duration,
    /// From a completion to the consumer's thread that waits for it.
    pub wake: Duration,
    /// To look at one worker when work is to be moved.
    pub look: Duration,
}

impl World {
    /// Worker processes of this machine. Measured: a start takes 0.12 ms of the supervisor and 1.1 ms until the greeting; an
    /// item costs the host 8 ns; a batch of one item at depth 1 costs 0.06 ms on the whole where cores are free, of which
    /// the host's 15 µs are an estimate.
    pub fn local(workers: usize) -> Self {
        World {
            workers,
            start: Start::Spawned { gap: Duration::from_micros(120), ready: Duration::from_micros(1100) },
            one_way: Duration::from_micros(20),
            page: true,
            host: HostCosts {
                send: Duration::from_nanos(7500),
                receive: Duration::from_nanos(7500),
                item: Duration::from_nanos(8),
                wake: Duration::from_micros(10),
                look: Duration::from_nanos(10),
            },
            worker_batch: Duration::from_micros(5),
            bytes: (8, 8),
        }
    }

    /// Workers of a service, already running, `round_trip` away; a batch costs the host `batch`, half of it on either way.
    pub fn cloud(workers: usize, round_trip: Duration, batch: Duration) -> Self {
        let local = World::local(workers);
        World {
            start: Start::Warm,
            one_way: round_trip / 2,
            page: false,
            host: HostCosts { send: batch / 2, receive: batch / 2, ..local.host },
            ..local
        }
    }
}
