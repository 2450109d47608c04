//! Events of a simulation, and what messages between the host and its workers carry.

use fastmap_backends::BatchId;
use fastmap_backends::adaptive::policy::Side;

use crate::choice::worker_group::Ends;
use crate::clock::Nanos;

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A local worker has started.
    Arrive(usize),
    Ends(Side, Ends),
    /// A worker has started in place of one that died.
    Replaced(Side, usize),
    /// A batch is in the service.
    ArrivedAtService(BatchId),
    /// A message has reached the host.
    Message(Message),
    /// The host is through with what it did.
    Free,
    /// The policy wanted to look again.
    Tick,
    /// The service dies.
    Dies,
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    /// The answers of a batch, or of a part of it, and the worker's time that they took.
    Answered {
        side: Side,
        answers: Vec<PieceAnswer>,
        spent: Nanos,
    },
    Probed,
    Uploading(f64),
    Ready,
    Gone,
}

/// The answer of some items of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct PieceAnswer {
    pub(super) batch: BatchId,
    pub(super) first: u64,
    pub(super) items: u32,
    pub(super) attempt: u32,
    pub(super) what: AnswerKind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum AnswerKind {
    Done(Nanos),
    /// The item with that index ended its worker.
    Lost(u64),
    /// The agent that had it is gone.
    Agent,
}

/// A batch, or a piece of a copy, on a side.
#[derive(Clone, Debug, Default)]
pub(super) struct SentPiece {
    pub(super) first: u64,
    pub(super) items: u32,
    pub(super) attempt: u32,
    /// Items of it that workers have finished, and their time; their answers, where some were lost.
    pub(super) covered: u32,
    pub(super) wall: Nanos,
    pub(super) parts: Vec<PieceAnswer>,
    pub(super) lost: bool,
}
