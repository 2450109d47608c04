//! Frames between the host and a worker: a fixed header, then a payload of any length. A host sends
//! [`ToWorker`], a worker sends [`ToHost`]; each kind of frame has its own fields. Written by the adapter
//! (batches) and by both ends of a local channel. A frame is sent as packets of at most [`PACKET`] bytes,
//! each of which a socket accepts whole.
//!
//! A header is 72 bytes, little-endian. The kind is at 0, the length of the payload at 32, and its place at
//! 64: its offset in the shared area plus one, or 0 if it follows the header. The other fields depend on the
//! kind; unused fields are zero.
//!
//! | at | bytes | `Batch` | `Done` | other kinds |
//! |---|---|---|---|---|
//! | 4 | 4 | items | answered items | |
//! | 8 | 8 | job | one more than the nanoseconds without a core; 0: not known | job (`Open`, `Close`, `OpenFailed`) |
//! | 16 | 8 | ticket | ticket | ticket (`Recall`, `Returned`, `SandboxDenial`) |
//! | 24 | 4 | bytes of an item; 0: a length precedes each | microseconds of the slowest item; 0: not known | |
//! | 28 | 4 | level of the logger | the slowest item | `Open`: bytes of the opening; `Recall`: 1 is half; `Returned`: the first item |
//! | 40 | 8 | credit of results | bytes of failures at the payload's end | |
//! | 48 | 8 | bytes granted | nanoseconds on the clock | |
//! | 56 | 8 | | nanoseconds on the CPU | |

use std::fmt;
use std::time::Duration;

use log::LevelFilter;

use crate::model::failure::ItemFailure;
use crate::model::frame_kind::Kind;
use crate::model::ids::JobId;
use crate::model::log_level;
use crate::model::protocol_error::ProtocolError;
use crate::model::result_credit::{FAILURE, of_failures};

/// Largest packet in bytes. It fits a socket's buffer, which has 208 KB on most systems.
pub(crate) const PACKET: usize = 200 * 1024;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 72;

/// Version of the frames and of the handshake; a worker with another version is rejected.
pub(crate) const VERSION: u32 = 7;

/// Maximum nanoseconds that a batch may report, about 13 days: centuries would overflow when times are added
/// up.
const MAX_NANOS: u64 = 1 << 50;

/// A frame sent by the host, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToWorker {
    /// A function and its context, sent before its first batch. Payload: postcard of an
    /// [`Opening`](crate::local::Opening), and the context from byte `context_at` on; `None`: the context is
    /// a file that is passed separately.
    Open { job: JobId, context_at: Option<u32> },
    /// Items to be mapped. Payload: the items.
    Batch(BatchHead),
    /// Requests the return of the unstarted items of this batch, or of half of them. No payload.
    Recall { ticket: u64, half: bool },
    /// Drop the function and its context. No payload.
    Close { job: JobId },
}

/// Fields of a batch that are sent before its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub(crate) job: JobId,
    pub(crate) ticket: u64,
    pub(crate) items: u32,
    /// Bytes of one item; `None`: a length precedes each.
    pub(crate) stride: Option<u32>,
    /// Maximum level of log records, if specified.
    pub(crate) level: Option<LevelFilter>,
    /// Bytes of results after which the worker stops.
    pub(crate) result_credit: u64,
    /// Bytes of results and failures that a jailed worker may answer.
    pub(crate) granted: u64,
}

/// A frame sent by a worker, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToHost {
    /// Answers to the first items of a batch. Payload: results, then failures.
    Done(DoneHead),
    /// Items from `from` on were not started and won't be. No payload.
    Returned { ticket: u64, from: u32 },
    /// A job could not be opened. Payload: postcard of an [`ItemFailure`].
    OpenFailed { job: JobId },
    /// A record for the host's logger. Payload: postcard of a [`Record`](crate::local::Record).
    Log,
    /// Calls were denied to items of a batch (or to the preparation) that continued, or files are missing.
    /// Sent before the batch's answer. Payload: postcard of the calls, each with its item, whether that
    /// returned an error of its own, and whether it is a file.
    SandboxDenial { ticket: u64 },
}

/// Fields of an answer that are sent before its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DoneHead {
    pub(crate) ticket: u64,
    /// Number of answered items.
    pub(crate) items: u32,
    /// Bytes of failures at the payload's end.
    pub(crate) failure_bytes: u64,
    /// The slowest item and its time in whole microseconds, if measured.
    pub(crate) slowest: Option<(u32, Duration)>,
    /// Time in which the worker's thread was ready to run and had no core, if known.
    pub(crate) queued: Option<Duration>,
    /// Wall-clock time.
    pub(crate) wall: Duration,
    /// CPU time.
    pub(crate) cpu: Duration,
}

/// The frames of one direction.
pub(crate) trait Message: Copy + fmt::Debug {
    /// The sender of the frames of the other direction.
    const OTHER_SENDER: &'static str;

    fn kind(&self) -> Kind;

    /// Writes the fields of its kind.
    fn write(&self, fields: &mut Fields);

    /// Reads the fields of this kind; `None` for a kind of the other direction.
    fn read(kind: Kind, fields: &Fields) -> Option<Self>;
}

impl Message for ToWorker {
    const OTHER_SENDER: &'static str = "worker";

    fn kind(&self) -> Kind {
        match self {
            ToWorker::Open { .. } => Kind::Open,
            ToWorker::Batch(_) => Kind::Batch,
            ToWorker::Recall { .. } => Kind::Recall,
            ToWorker::Close { .. } => Kind::Close,
        }
    }

    fn write(&self, fields: &mut Fields) {
        match *self {
            ToWorker::Open { job, context_at } => {
                fields.set_u64(8, job.0);
                fields.set_u32(28, context_at.unwrap_or(0));
            }
            ToWorker::Batch(batch) => {
                fields.set_u32(4, batch.items);
                fields.set_u64(8, batch.job.0);
                fields.set_u64(16, batch.ticket);
                fields.set_u32(24, batch.stride.unwrap_or(0));
                fields.set_u32(28, log_level::to_byte(batch.level).into());
                fields.set_u64(40, batch.result_credit);
                fields.set_u64(48, batch.granted);
            }
            ToWorker::Recall { ticket, half } => {
                fields.set_u64(16, ticket);
                fields.set_u32(28, half.into());
            }
            ToWorker::Close { job } => fields.set_u64(8, job.0),
        }
    }

    fn read(kind: Kind, fields: &Fields) -> Option<ToWorker> {
        let not_zero = |number: u32| (number > 0).then_some(number);
        let (job, ticket) = (JobId(fields.u64(8)), fields.u64(16));
        let level = |number: u32| log_level::of_byte(u8::try_from(number).ok()?).ok()?;
        match kind {
            Kind::Open => Some(ToWorker::Open { job, context_at: not_zero(fields.u32(28)) }),
            Kind::Batch => Some(ToWorker::Batch(BatchHead {
                job,
                ticket,
                items: fields.u32(4),
                stride: not_zero(fields.u32(24)),
                level: level(fields.u32(28)),
                result_credit: fields.u64(40),
                granted: fields.u64(48),
            })),
            Kind::Recall => Some(ToWorker::Recall { ticket, half: fields.u32(28) == 1 }),
            Kind::Close => Some(ToWorker::Close { job }),
            Kind::Done | Kind::Returned | Kind::OpenFailed | Kind::Log | Kind::SandboxDenial => None,
        }
    }
}

impl Message for ToHost {
    const OTHER_SENDER: &'static str = "host";

    fn kind(&self) -> Kind {
        match self {
            ToHost::Done(_) => Kind::Done,
            ToHost::Returned { .. } => Kind::Returned,
            ToHost::OpenFailed { .. } => Kind::OpenFailed,
            ToHost::Log => Kind::Log,
            ToHost::SandboxDenial { .. } => Kind::SandboxDenial,
        }
    }

    fn write(&self, fields: &mut Fields) {
        match *self {
            ToHost::Done(done) => {
                let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                fields.set_u32(4, done.items);
                fields.set_u64(8, done.queued.map_or(0, |time| nanos(time).saturating_add(1)));
                fields.set_u64(16, done.ticket);
                if let Some((item, time)) = done.slowest {
                    fields.set_u32(24, u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
                    fields.set_u32(28, item);
                }
                fields.set_u64(40, done.failure_bytes);
                fields.set_u64(48, nanos(done.wall));
                fields.set_u64(56, nanos(done.cpu));
            }
            ToHost::Returned { ticket, from } => {
                fields.set_u64(16, ticket);
                fields.set_u32(28, from);
            }
            ToHost::OpenFailed { job } => fields.set_u64(8, job.0),
            ToHost::Log => {}
            ToHost::SandboxDenial { ticket } => fields.set_u64(16, ticket),
        }
    }

    fn read(kind: Kind, fields: &Fields) -> Option<ToHost> {
        let ticket = fields.u64(16);
        match kind {
            Kind::Done => {
                let (items, micros, slowest) = (fields.u32(4), fields.u32(24), fields.u32(28));
                let known = micros > 0 && slowest < items;
                let time = |at| Duration::from_nanos(fields.u64(at).min(MAX_NANOS));
                Some(ToHost::Done(DoneHead {
                    ticket,
                    items,
                    failure_bytes: fields.u64(40),
                    slowest: known.then(|| (slowest, Duration::from_micros(micros.into()))),
                    queued: fields.u64(8).checked_sub(1).map(Duration::from_nanos),
                    wall: time(48),
                    cpu: time(56),
                }))
            }
            Kind::Returned => Some(ToHost::Returned { ticket, from: fields.u32(28) }),
            Kind::OpenFailed => Some(ToHost::OpenFailed { job: JobId(fields.u64(8)) }),
            Kind::Log => Some(ToHost::Log),
            Kind::SandboxDenial => Some(ToHost::SandboxDenial { ticket }),
            Kind::Open | Kind::Batch | Kind::Recall | Kind::Close => None,
        }
    }
}

impl DoneHead {
    /// Returns the end of the results in `frame`, and the failures after them; the payload follows the
    /// header. Results and failures may count at most `limit` bytes. Decoded failures need more memory than
    /// their bytes, so they are counted before they are decoded.
    ///
    /// # Errors
    /// If this is not a valid answer of a worker.
    pub(crate) fn failures(
        &self,
        frame: &[u8],
        limit: u64,
    ) -> Result<(usize, Vec<ItemFailure>), ProtocolError> {
        let end = (frame.len() as u64).checked_sub(self.failure_bytes).map(|end| end as usize);
        let end = end.filter(|end| *end >= HEADER).ok_or(ProtocolError::FailuresBeyondFrame)?;
        if self.failure_bytes == 0 {
            // Only results, which the caller has bounded.
            return Ok((end, Vec::new()));
        }
        let limit = limit.saturating_sub((end - HEADER) as u64);
        let (count, _): (u64, _) =
            postcard::take_from_bytes(&frame[end..]).map_err(|_| ProtocolError::UnreadableFailures)?;
        if count.saturating_mul(FAILURE) > limit {
            return Err(ProtocolError::TooManyFailures { count });
        }
        let failures: Vec<ItemFailure> =
            postcard::from_bytes(&frame[end..]).map_err(|_| ProtocolError::UnreadableFailures)?;
        let ascending = failures.windows(2).all(|pair| pair[0].offset < pair[1].offset);
        if !ascending || failures.last().is_some_and(|last| last.offset >= self.items) {
            return Err(ProtocolError::ForeignFailures);
        }
        if of_failures(&failures) > limit {
            return Err(ProtocolError::FailuresTooLong { count });
        }
        Ok((end, failures))
    }
}

/// A frame without its payload, and the payload's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header<M> {
    pub(crate) message: M,
    /// Bytes of the payload.
    pub(crate) length: u64,
    /// Offset of the payload in the shared area; `None`: it follows this header.
    pub(crate) place: Option<u64>,
}

impl<M: Message> Header<M> {
    /// The header of a payload that follows it.
    pub(crate) fn before(message: M, length: usize) -> Header<M> {
        Header { message, length: length as u64, place: None }
    }

    /// The whole frame for a payload in the shared area.
    pub(crate) fn placed(message: M, place: usize, length: usize) -> [u8; HEADER] {
        Header { message, length: length as u64, place: Some(place as u64) }.bytes()
    }

    /// A frame with this payload.
    pub(crate) fn frame(message: M, payload: &[u8]) -> Vec<u8> {
        [&Header::before(message, payload.len()).bytes()[..], payload].concat()
    }

    fn bytes(&self) -> [u8; HEADER] {
        let mut fields = Fields([0; HEADER]);
        fields.set_u32(0, u32::from(self.message.kind() as u8));
        self.message.write(&mut fields);
        fields.set_u64(32, self.length);
        fields.set_u64(64, self.place.map_or(0, |place| place + 1));
        fields.0
    }

    /// Writes the header over the first bytes of `frame`.
    pub(crate) fn write(&self, frame: &mut [u8]) {
        frame[..HEADER].copy_from_slice(&self.bytes());
    }

    /// Reads a header.
    ///
    /// # Errors
    /// If the bytes are not a header, or one of the other direction.
    pub(crate) fn read(frame: &[u8]) -> Result<Header<M>, ProtocolError> {
        let invalid_header = || ProtocolError::NoHeader { length: frame.len() };
        let fields = Fields(*frame.first_chunk().ok_or_else(invalid_header)?);
        let kind = Kind::of(fields.u32(0)).ok_or_else(invalid_header)?;
        let message =
            M::read(kind, &fields).ok_or(ProtocolError::WrongDirection { kind, sender: M::OTHER_SENDER })?;
        Ok(Header { message, length: fields.u64(32), place: fields.u64(64).checked_sub(1) })
    }

    /// Bytes that follow the header in the channel.
    pub(crate) fn behind(&self) -> u64 {
        if self.place.is_none() { self.length } else { 0 }
    }

    /// Offset and length of the payload in the shared area; `None` if it follows the header.
    pub(crate) fn shared(&self) -> Option<(usize, usize)> {
        // A value that does not fit a usize is outside any area.
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.place.map(|place| (size(place), size(self.length)))
    }
}

/// Bytes of a header, on the stack because a header is written and read for each batch.
#[derive(Debug)]
pub(crate) struct Fields([u8; HEADER]);

impl Fields {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
