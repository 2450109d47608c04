//! JSON after the results of an answer's part: the worker, the failures, and a worker's exit. Written and
//! read by `body`. Names here are the protocol's, independent of the Rust types' names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cloud::bytes::BodyError;
use crate::model::completion::Results;
use crate::model::death::{ExitReason, MemoryLimit, Running, WorkerExit, WorkerLoss};
use crate::model::failure::{FailureKind, ItemFailure};
use crate::model::refused_call::RefusedCall;
use crate::model::text::cut;

/// Maximum accepted calls of one part, and bytes of one call's description.
const MAX_CALLS: usize = 64;
const MAX_CALL_BYTES: usize = 500;
/// Maximum bytes of the calls' description of a worker's exit.
const MAX_EXIT_CALLS_BYTES: usize = 4 * MAX_CALL_BYTES;

pub(super) fn json(meta: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(meta).expect("names and numbers can be written")
}

pub(super) fn of_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BodyError> {
    serde_json::from_slice(bytes).map_err(|error| BodyError(format!("a part's JSON: {error}")))
}

#[derive(Serialize, Deserialize)]
pub(super) struct DoneMeta {
    pub(super) worker: String,
    pub(super) failures: Vec<FailureMeta>,
    /// Absent in answers of older services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refused: Vec<RefusedMeta>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RefusedMeta {
    /// Index in the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    call: String,
    #[serde(default, skip_serializing_if = "is_false")]
    own_error: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    missing: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize, Deserialize)]
pub(super) struct FailureMeta {
    offset: u32,
    kind: KindMeta,
    message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindMeta {
    Panic,
    Serialize,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LostMeta {
    running: RunningMeta,
    worker: String,
    pid: u32,
    cause: CauseMeta,
    stderr: Vec<String>,
    /// Absent in answers of older services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RunningMeta {
    Item(u32),
    Setup,
    Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CauseMeta {
    Exit(i32),
    Signal(i32),
    TimeoutMs(u64),
    NoGreetingMs(u64),
    Mismatch(String),
    Protocol(String),
    NotStarted(String),
    ExitedBeforeHandshake(i32),
    OutOfMemory(u64),
    OutputLimit(u64),
    Unknown,
}

impl DoneMeta {
    pub(super) fn of(results: &Results) -> Self {
        let failures = results.failures.iter().map(|failure| FailureMeta {
            offset: failure.offset,
            kind: match failure.kind {
                FailureKind::Panic => KindMeta::Panic,
                FailureKind::Serialize => KindMeta::Serialize,
            },
            message: failure.message.clone(),
        });
        let refused = results.refused.iter().map(|refused| RefusedMeta {
            index: refused.index,
            call: refused.call.clone(),
            own_error: refused.own_error,
            missing: refused.missing,
        });
        DoneMeta {
            worker: results.worker.clone(),
            failures: failures.collect(),
            refused: refused.take(MAX_CALLS).collect(),
        }
    }

    /// The calls, limited in number and length.
    pub(super) fn refused(refused: Vec<RefusedMeta>) -> Vec<RefusedCall> {
        let call = |RefusedMeta { index, call, own_error, missing }: RefusedMeta| RefusedCall {
            index,
            call: sanitized(call, MAX_CALL_BYTES),
            own_error,
            missing,
        };
        refused.into_iter().take(MAX_CALLS).map(call).collect()
    }
}

/// A worker's text, cut and with control characters replaced, safe to show on a terminal.
fn sanitized(text: String, limit: usize) -> String {
    cut(text, limit).replace(char::is_control, "\u{fffd}")
}

impl FailureMeta {
    pub(super) fn failure(self) -> ItemFailure {
        let kind = match self.kind {
            KindMeta::Panic => FailureKind::Panic,
            KindMeta::Serialize => FailureKind::Serialize,
        };
        ItemFailure { offset: self.offset, kind, message: self.message }
    }
}

impl LostMeta {
    pub(super) fn of(loss: &WorkerLoss) -> Self {
        let WorkerLoss { running, death } = loss;
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        LostMeta {
            running: match running {
                Running::Item(item) => RunningMeta::Item(*item),
                Running::Setup => RunningMeta::Setup,
                Running::Unknown => RunningMeta::Unknown,
            },
            worker: death.worker.clone(),
            pid: death.pid,
            cause: match &death.cause {
                ExitReason::Exit(code) => CauseMeta::Exit(*code),
                ExitReason::Signal(number) => CauseMeta::Signal(*number),
                ExitReason::Timeout(limit) => CauseMeta::TimeoutMs(ms(limit)),
                ExitReason::HandshakeTimeout(limit) => CauseMeta::NoGreetingMs(ms(limit)),
                ExitReason::Mismatch(what) => CauseMeta::Mismatch(what.clone()),
                ExitReason::Protocol(what) => CauseMeta::Protocol(what.clone()),
                ExitReason::NotStarted(why) => CauseMeta::NotStarted(why.clone()),
                ExitReason::ExitedBeforeHandshake(code) => CauseMeta::ExitedBeforeHandshake(*code),
                ExitReason::OutOfMemory(limit) => CauseMeta::OutOfMemory(match limit {
                    MemoryLimit::Worker(limit) | MemoryLimit::Jail(limit) => *limit,
                    MemoryLimit::Shared(limit) => limit.unwrap_or_default(),
                }),
                ExitReason::Stopped(_) => CauseMeta::Signal(libc::SIGSTOP),
                ExitReason::OutputLimit(limit) => CauseMeta::OutputLimit(*limit),
                // `AgentsLost` is created by a client for itself and never sent.
                ExitReason::AgentsLost(_) | ExitReason::Unknown => CauseMeta::Unknown,
            },
            stderr: death.stderr.clone(),
            refused: death.refused.clone(),
        }
    }

    pub(super) fn loss(self) -> WorkerLoss {
        WorkerLoss {
            running: match self.running {
                RunningMeta::Item(item) => Running::Item(item),
                RunningMeta::Setup => Running::Setup,
                RunningMeta::Unknown => Running::Unknown,
            },
            death: WorkerExit {
                worker: self.worker,
                pid: self.pid,
                cause: match self.cause {
                    CauseMeta::Exit(code) => ExitReason::Exit(code),
                    CauseMeta::Signal(number) => ExitReason::Signal(number),
                    CauseMeta::TimeoutMs(ms) => ExitReason::Timeout(Duration::from_millis(ms)),
                    CauseMeta::NoGreetingMs(ms) => ExitReason::HandshakeTimeout(Duration::from_millis(ms)),
                    CauseMeta::Mismatch(what) => ExitReason::Mismatch(what),
                    CauseMeta::Protocol(what) => ExitReason::Protocol(what),
                    CauseMeta::NotStarted(why) => ExitReason::NotStarted(why),
                    CauseMeta::ExitedBeforeHandshake(code) => ExitReason::ExitedBeforeHandshake(code),
                    CauseMeta::OutOfMemory(limit) => ExitReason::OutOfMemory(MemoryLimit::Jail(limit)),
                    CauseMeta::OutputLimit(limit) => ExitReason::OutputLimit(limit),
                    CauseMeta::Unknown => ExitReason::Unknown,
                },
                refused: self.refused.map(|calls| sanitized(calls, MAX_EXIT_CALLS_BYTES)),
                stderr: self.stderr,
            },
        }
    }
}
