//! Messages between host and worker besides the frames of batches: the opening of a job, a log record.

use serde::{Deserialize, Serialize};

use crate::execution::function::FunctionId;

/// What comes before the context in a frame that opens a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) function: FunctionId,
    /// See [`Job::fail_fast`](crate::Job::fail_fast).
    pub(crate) fail_fast: bool,
}

/// A log record on its way to the host's logger.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) level: usize,
    pub(crate) target: String,
    pub(crate) message: String,
    pub(crate) module: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}
