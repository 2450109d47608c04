//! Messages between gateways and agents: work (gateway to agent, by the stream), and requests of an agent about it
//! (agent to gateway). A head in JSON, so that either side may be a version ahead, and bytes as they are behind it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use fastmap_backends::FunctionId;
use fastmap_backends::cloud::{Answer, BodyError, Locale, Problem};
use log::LevelFilter;
use serde::{Deserialize, Serialize};

use crate::dispatch::work::{Answered, BatchTask, RunSpec, Task, Upload, Work, WorkOutcome};
use crate::pricing::Work as Limit;

/// A message is smaller than the servers' `max_payload` by this: headers count.
const MARGIN: usize = 16 << 10;
/// Asked about this, a gateway says that it is there.
pub(super) const PING: &str = "here";
/// In the reply to an outcome: another agent's was taken before.
pub(super) const DUPLICATE: &[u8] = b"duplicate";

/// Bytes in one message, at servers with that `max_payload`.
pub(super) fn room(max_payload: usize) -> usize {
    max_payload.saturating_sub(MARGIN).max(1024)
}

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// It ends too early.
    #[error("a message that is cut short")]
    Short,
    /// Its header is not valid JSON, or lacks a field.
    #[error("malformed message header")]
    Head(#[from] serde_json::Error),
    /// The answer in it is malformed.
    #[error("malformed outcome")]
    Body(#[from] BodyError),
    /// Of a kind that this version does not know.
    #[error("a message of kind {0:?}")]
    Kind(u8),
}

/// Where work comes from and under which name its gateway knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The gateway that has submitted it.
    pub(super) gateway: String,
    /// What to call it there.
    pub(super) token: String,
    /// Length of its leases: an agent that sends nothing for this time loses it.
    pub(super) lease_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct WorkHeader {
    origin: Origin,
    run: String,
    account: i64,
    executable: FileRef,
    identity: String,
    function: FunctionId,
    context: Option<FileRef>,
    label: Option<String>,
    items: Option<u64>,
    item_timeout_ms: Option<u64>,
    /// Gateways of before did not know it.
    #[serde(default)]
    locale: Locale,
    batch: Option<Batch>,
}

/// A file of the gateway's, by its hash and the name under which it gives it out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileRef {
    pub(super) hash: String,
    pub(super) name: String,
}

#[derive(Serialize, Deserialize)]
struct Batch {
    seq: u64,
    first: u64,
    items: u32,
    stride: Option<u32>,
    cpu_ns: u64,
    bytes: u64,
    /// Gateways of before did not know it: there the two were one.
    enough: Option<u64>,
    /// Up to which level its function logs, as the number that `log` gives it. Gateways of before did not
    /// know it.
    #[serde(default)]
    level: Option<u8>,
    length: u64,
    /// Its items are to be fetched from the gateway.
    away: bool,
    #[serde(default)]
    request: String,
}

/// Work as it came: what it is, whose, and what is still to be fetched.
#[derive(Debug)]
pub(super) struct DecodedWork {
    pub(super) origin: Origin,
    pub(super) work: Work,
    /// Bytes of items that are not in the message.
    pub(super) remote: Option<u64>,
    pub(super) files: Files,
}

/// What a gateway calls the files of a run.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) executable: FileRef,
    pub(super) context: Option<FileRef>,
}

fn framed(head: &impl Serialize, body: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("names and numbers can be written");
    let mut bytes = Vec::with_capacity(4 + head.len() + body.len());
    bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    bytes.into()
}

fn unframed<H: for<'a> Deserialize<'a>>(bytes: &Bytes) -> Result<(H, Bytes), WireError> {
    let (length, rest) = bytes.split_at_checked(4).ok_or(WireError::Short)?;
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    let (head, body) = rest.split_at_checked(length).ok_or(WireError::Short)?;
    Ok((serde_json::from_slice(head)?, bytes.slice_ref(body)))
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Work in one message of at most `room` bytes; items that do not fit are left out.
pub(super) fn work(work: &Work, origin: &Origin, files: &Files, room: usize) -> Bytes {
    let spec = &work.spec;
    let (batch, payload) = match &work.task {
        Task::Check => (None, &Bytes::new()),
        Task::Batch(task) => {
            let batch = Batch {
                seq: task.seq,
                first: task.first,
                items: task.items,
                stride: task.stride,
                cpu_ns: nanos(task.limit.cpu),
                bytes: task.limit.bytes,
                enough: Some(task.enough),
                level: task.level.map(|level| level as u8),
                length: task.payload.len() as u64,
                away: false,
                request: task.request.clone(),
            };
            (Some(batch), &task.payload)
        }
    };
    let mut head = WorkHeader {
        origin: origin.clone(),
        run: spec.run.clone(),
        account: spec.account,
        executable: files.executable.clone(),
        identity: spec.identity.clone(),
        function: spec.function.clone(),
        context: files.context.clone(),
        label: spec.label.clone(),
        items: spec.items,
        item_timeout_ms: spec.item_timeout.map(|time| time.as_millis() as u64),
        locale: spec.locale.clone(),
        batch,
    };
    // Most batches fit, and are encoded once. The header's length is known only when it is written.
    let whole = framed(&head, payload);
    match &mut head.batch {
        Some(batch) if whole.len() > room => {
            batch.away = true;
            framed(&head, &[])
        }
        _ => whole,
    }
}

/// Reads what [`work`] has made.
pub(super) fn decode_work(bytes: &Bytes) -> Result<DecodedWork, WireError> {
    let (head, body): (WorkHeader, Bytes) = unframed(bytes)?;
    let upload = |named: &FileRef| Upload { hash: named.hash.clone(), ..Upload::default() };
    let remote = head.batch.as_ref().filter(|batch| batch.away).map(|batch| batch.length);
    let task = match head.batch {
        None => Task::Check,
        // A message that is cut short must not become a batch of fewer items.
        Some(batch) if !batch.away && body.len() as u64 != batch.length => return Err(WireError::Short),
        Some(batch) => Task::Batch(BatchTask {
            seq: batch.seq,
            first: batch.first,
            items: batch.items,
            stride: batch.stride,
            payload: body,
            enough: batch.enough.unwrap_or(batch.bytes),
            level: batch.level.and_then(|level| LevelFilter::iter().nth(level.into())),
            limit: Limit { cpu: Duration::from_nanos(batch.cpu_ns), bytes: batch.bytes },
            request: batch.request,
        }),
    };
    let spec = RunSpec {
        run: head.run,
        account: head.account,
        executable: upload(&head.executable),
        identity: head.identity,
        function: head.function,
        context: head.context.as_ref().map(upload),
        label: head.label,
        items: head.items,
        item_timeout: head.item_timeout_ms.map(Duration::from_millis),
        locale: head.locale,
    };
    let work = Work { spec: Arc::new(spec), task };
    let files = Files { executable: head.executable, context: head.context };
    Ok(DecodedWork { origin: head.origin, work, remote, files })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum OutcomeHeader {
    Ready,
    Answered { cpu_ns: u64, cut: bool },
    Failed { problem: Problem },
    Cancelled,
    Lost,
}

/// An outcome as bytes.
pub(super) fn encode_outcome(outcome: WorkOutcome) -> Bytes {
    match outcome {
        WorkOutcome::Ready => framed(&OutcomeHeader::Ready, &[]),
        WorkOutcome::Failed(problem) => framed(&OutcomeHeader::Failed { problem }, &[]),
        WorkOutcome::Cancelled => framed(&OutcomeHeader::Cancelled, &[]),
        // What the queue refuses comes to no agent.
        WorkOutcome::Lost | WorkOutcome::Refused(_) => framed(&OutcomeHeader::Lost, &[]),
        WorkOutcome::Answered(Answered { parts, cpu, cut }) => {
            // The gateway sets the charge: an agent knows no prices.
            let body = Answer { charge: 0, cpu, parts }.encode();
            framed(&OutcomeHeader::Answered { cpu_ns: nanos(cpu), cut }, &body)
        }
    }
}

/// Reads the outcome of a batch of `items` items. An answer that does not have each of them once is
/// malformed.
pub(super) fn decode_outcome(bytes: &Bytes, items: u32) -> Result<WorkOutcome, WireError> {
    let (said, body): (OutcomeHeader, Bytes) = unframed(bytes)?;
    Ok(match said {
        OutcomeHeader::Ready => WorkOutcome::Ready,
        OutcomeHeader::Failed { problem } => WorkOutcome::Failed(problem),
        OutcomeHeader::Cancelled => WorkOutcome::Cancelled,
        OutcomeHeader::Lost => WorkOutcome::Lost,
        OutcomeHeader::Answered { cpu_ns, cut } => {
            // The number of items is the gateway's own: what an agent answers is not trusted.
            let parts = Answer::decode(&body, items)?.parts;
            WorkOutcome::Answered(Answered { parts, cpu: Duration::from_nanos(cpu_ns), cut })
        }
    })
}

/// What an agent asks of a gateway, about an item of work or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Asks whether the work is still wanted; the number of its deliveries. With 0 nothing is counted.
    Claim(u64),
    /// The bytes from there on, as many as fit.
    Get(u64),
    /// A part of an outcome that is too large for one message: its offset, the whole's length, its bytes.
    Part(u64, u64, Bytes),
    /// The outcome (empty: it came in parts), and where to acknowledge the work.
    Outcome(String, Bytes),
    /// The agent can't do the work.
    Nack,
    /// The agent had the work and has not begun it.
    Unstarted,
    /// CPU time, in nanoseconds, that workers of the run of that name have used beside batches. The first
    /// number is the report's own: a report that is sent again is charged once.
    Used(u64, u64),
}

impl Request {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Request::Claim(delivered) => {
                bytes.push(b'a');
                bytes.extend_from_slice(&delivered.to_le_bytes());
            }
            Request::Get(offset) => {
                bytes.push(b'g');
                bytes.extend_from_slice(&offset.to_le_bytes());
            }
            Request::Part(offset, total, part) => {
                bytes.reserve(17 + part.len());
                bytes.push(b'p');
                bytes.extend_from_slice(&offset.to_le_bytes());
                bytes.extend_from_slice(&total.to_le_bytes());
                bytes.extend_from_slice(part);
            }
            Request::Outcome(ack, outcome) => {
                bytes.reserve(5 + ack.len() + outcome.len());
                bytes.push(b'v');
                bytes.extend_from_slice(&(ack.len() as u32).to_le_bytes());
                bytes.extend_from_slice(ack.as_bytes());
                bytes.extend_from_slice(outcome);
            }
            Request::Nack => bytes.push(b'b'),
            Request::Unstarted => bytes.push(b'u'),
            Request::Used(report, cpu_ns) => {
                bytes.push(b'c');
                bytes.extend_from_slice(&report.to_le_bytes());
                bytes.extend_from_slice(&cpu_ns.to_le_bytes());
            }
        }
        bytes.into()
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let mut at = 1usize;
        let mut take = |length: usize| {
            let taken = bytes.get(at..at.checked_add(length)?)?;
            at += length;
            Some(taken)
        };
        let mut number = || Some(u64::from_le_bytes(take(8)?.try_into().ok()?));
        Ok(match bytes.first().ok_or(WireError::Short)? {
            // The letters are those of the first version, whatever the variants are called now: agents and
            // gateways of different versions must understand each other.
            b'a' => Request::Claim(number().ok_or(WireError::Short)?),
            b'g' => Request::Get(number().ok_or(WireError::Short)?),
            b'p' => {
                let (offset, total) = (number().ok_or(WireError::Short)?, number().ok_or(WireError::Short)?);
                Request::Part(offset, total, bytes.slice(17..))
            }
            b'v' => {
                let length = take(4).ok_or(WireError::Short)?.try_into().expect("four bytes");
                let ack = take(u32::from_le_bytes(length) as usize).ok_or(WireError::Short)?;
                // What is not UTF-8 is not a subject for acknowledgements, and is dropped by the check of
                // those.
                let ack = String::from_utf8_lossy(ack).into_owned();
                Request::Outcome(ack, bytes.slice(at..))
            }
            b'b' => Request::Nack,
            b'u' => Request::Unstarted,
            b'c' => {
                let (report, cpu_ns) = (number().ok_or(WireError::Short)?, number().ok_or(WireError::Short)?);
                Request::Used(report, cpu_ns)
            }
            kind => return Err(WireError::Kind(*kind)),
        })
    }
}

/// What a gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Yes, and the bytes that were asked for.
    Yes(Bytes),
    /// It does not know it, or it is abandoned.
    No,
}

impl Reply {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Reply::Yes(bytes) => [b"y", &bytes[..]].concat().into(),
            Reply::No => Bytes::from_static(b"n"),
        }
    }

    pub(super) fn decode(bytes: &Bytes) -> Self {
        match bytes.first() {
            Some(b'y') => Reply::Yes(bytes.slice(1..)),
            // A reply that this version does not know gives no permission.
            _ => Reply::No,
        }
    }
}

/// The first byte chooses what the rest is read as.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    match kind % 4 {
        0 => {
            let Ok(DecodedWork { origin, work: read, remote, files }) = decode_work(&bytes) else { return };
            // What was read is written and read as the same again, unless its items stay with the gateway.
            if remote.is_none() {
                let again =
                    decode_work(&work(&read, &origin, &files, usize::MAX)).expect("it was just written");
                assert_eq!(format!("{:?}", again.work), format!("{read:?}"));
            }
        }
        1 => {
            if let Ok(WorkOutcome::Answered(answered)) = decode_outcome(&bytes, 1) {
                assert_eq!(answered.parts.len(), 1);
            }
        }
        2 => {
            let Ok(request) = Request::decode(&bytes) else { return };
            if !matches!(request, Request::Outcome(..)) {
                assert_eq!(Request::decode(&request.encode()).expect("it was just written"), request);
            }
        }
        _ => drop(serde_json::from_slice::<Vec<crate::run_log::Line>>(&bytes)),
    }
}

#[cfg(test)]
mod tests;
