//! Protocol violations by a worker. Each ends that worker, and its host continues. A worker's data is never
//! trusted, because the function in it can write to any descriptor.

use std::time::Duration;

use crate::model::frame_kind::Kind;

/// A protocol violation by a peer. Its text is part of the error of the item that ran at the time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    // Packets.
    #[error("a packet of {length} bytes whose head does not fit it")]
    PacketHead { length: usize },
    #[error("a packet of {length} bytes")]
    PacketTooLong { length: usize },
    #[error("it began a frame and sent nothing more of it for {within:?}")]
    Unfinished { within: Duration },

    // Frames.
    #[error("{length} bytes that begin with no frame header")]
    NoHeader { length: usize },
    #[error("{kind:?} is the {sender}'s to send")]
    WrongDirection { kind: Kind, sender: &'static str },
    #[error("a frame of {came} bytes that is said to be {claimed}")]
    MoreThanClaimed { came: u64, claimed: u64 },
    #[error("{length} bytes at a time, which is too much")]
    FrameTooLong { length: u64 },
    #[error("{kind:?} with {length} bytes, which is too much")]
    PayloadTooLong { kind: Kind, length: u64 },
    #[error("a packet of {length} bytes begins a frame of {frame}")]
    ShortFirstPacket { length: usize, frame: u64 },
    #[error("a packet of {length} bytes where {missing} were missing")]
    UnfitPacket { length: usize, missing: u64 },
    #[error("an answer of {length} bytes at {place} of its memory")]
    OutsideArena { place: usize, length: usize },
    #[error(transparent)]
    Unreadable(#[from] postcard::Error),
    #[error("a log record of no level")]
    NoLevel,

    // Answers.
    #[error("an answer after its death")]
    AnswerAfterDeath,
    #[error("an answer to what it was not asked")]
    Unasked,
    #[error("an answer to more items than it was asked")]
    TooManyItems,
    #[error("an answer to no item of a batch")]
    NoItems,
    #[error("an answer of {length} bytes to a batch that was granted {granted}")]
    AnswerTooLong { length: u64, granted: u64 },
    #[error("failures of more bytes than came")]
    FailuresBeyondFrame,
    #[error("failures that can't be read")]
    UnreadableFailures,
    #[error("{count} failures, which is too much")]
    TooManyFailures { count: u64 },
    #[error("{count} failures with too much text")]
    FailuresTooLong { count: u64 },
    #[error("failures of items that it was not asked")]
    ForeignFailures,
    #[error(
        "its answer of {length} bytes found no room within {within:?}: answers of its account that have not been taken \
         fill what there is for them"
    )]
    NoRoom { length: u64, within: Duration },

    // Returned items, rejected jobs, denied calls.
    #[error("items given back after its death")]
    ReturnedAfterDeath,
    #[error("items given back that were not asked back")]
    ReturnedUnasked,
    #[error("items given back that it did not have")]
    ReturnedForeign,
    #[error("more refusals than it was given batches")]
    TooManyRefusals,
    #[error("a refusal of a job that it was not given")]
    ForeignRefusal,
    #[error("refused calls of more than {most} bytes")]
    TooManyDenials { most: u64 },

    // The life of the worker.
    #[error("it greeted a pool that is closing")]
    PoolCloses,
    #[error("it said that it had taken what it was sent, and had not")]
    LiedOfTaken,
    #[error("it was through with a batch and did not answer")]
    Mute,
    #[error("it closed its channel")]
    ClosedChannel,
    #[error("the thread that listens to it panicked")]
    ReaderPanicked,
}
