//! Work for agents, and its outcome.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use fastmap_backends::FunctionId;
use fastmap_backends::cloud::{Locale, Part, Problem};
use log::LevelFilter;

use crate::pricing::Work as Limit;

/// What an agent must know of a run.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The run.
    pub run: String,
    /// Whose it is: tenants are taken in turn.
    pub account: i64,
    /// The executable, whole and checked.
    pub executable: Upload,
    /// What its workers must say that they are.
    pub identity: String,
    /// What to call.
    pub function: FunctionId,
    /// The encoded context, if there is one.
    pub context: Option<Upload>,
    /// The user's name for the map.
    pub label: Option<String>,
    /// Items in the input, if known.
    pub items: Option<u64>,
    /// An item that runs longer is given up.
    pub item_timeout: Option<Duration>,
    /// Time zone and language of its client's program.
    pub locale: Locale,
}

/// An upload that a run needs.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    /// Its SHA-256, in hexadecimal.
    pub hash: String,
    /// Where it lies on this machine; for an agent only after `WorkSource::prepare_uploads`.
    pub path: PathBuf,
    /// It lies there as long as this is held.
    pub kept: Option<Arc<dyn Debug + Send + Sync>>,
}

/// Something for an agent to do.
#[derive(Clone, Debug)]
pub struct Work {
    /// The run it is of.
    pub spec: Arc<RunSpec>,
    /// What it is.
    pub task: Task,
}

/// What is to be done for a run.
#[derive(Clone, Debug)]
pub enum Task {
    /// See whether its program can work: start a worker.
    Check,
    /// Run a batch.
    Batch(BatchTask),
}

/// A batch, decompressed and known to be the items that it says.
#[derive(Clone, Debug)]
pub struct BatchTask {
    /// Its number in the run.
    pub seq: u64,
    /// Index in the input of the first item.
    pub first: u64,
    /// Number of items.
    pub items: u32,
    /// Bytes of each; `None`: a length stands before each.
    pub stride: Option<u32>,
    /// The items.
    pub payload: Bytes,
    /// Bytes of results after which no more of it is begun; the rest is returned.
    pub enough: u64,
    /// Up to which level its function logs, where its client has said that.
    pub level: Option<LevelFilter>,
    /// CPU time after which it is cut, and the most bytes that its answer may have.
    pub limit: Limit,
    /// The id of the request that has brought it, for the log.
    pub request: String,
}

/// What became of some work.
#[derive(Debug)]
pub enum WorkOutcome {
    /// The run's program works.
    Ready,
    /// The batch is answered; the parts cover each of its items once.
    Answered(Answered),
    /// The run can't go on: its program can't work, or its function not be prepared.
    Failed(Problem),
    /// The run was ended meanwhile, or the batch cancelled.
    Cancelled,
    /// Agents have lost it too often.
    Lost,
    /// The queue has not taken it, for that reason in its own words.
    Refused(String),
}

/// An answered batch.
#[derive(Debug)]
pub struct Answered {
    /// What became of its items.
    pub parts: Vec<Part>,
    /// CPU time it took, as metered by the agent.
    pub cpu: Duration,
    /// It used up its CPU time and was cut.
    pub cut: bool,
}
