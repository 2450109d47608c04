//! Description of a run: a function of an executable, its context, and properties of the input. Created once
//! per map by the host's adapter; read by every backend.

use std::time::Duration;

use crate::execution::function::FunctionId;
use crate::model::context::Context;
use crate::model::ids::JobId;

/// One map, as backends see it. Cheap to share.
#[derive(Clone, Debug)]
pub struct Job {
    /// The job's id.
    pub id: JobId,
    /// The function to call.
    pub function: FunctionId,
    /// The encoded context, sent once to each worker; empty if the function has none.
    pub context: Context,
    /// The user's name for the map.
    pub label: Option<String>,
    /// Number of items, if it is known from the start.
    pub items: Option<u64>,
    /// Maximum duration of an item; an item that exceeds it is lost, and its worker is ended.
    pub item_timeout: Option<Duration>,
    /// The map ends at the first failed item. A worker should report a failure at once, and return the rest
    /// of its batch. A backend that can't do so reports it with the batch.
    pub fail_fast: bool,
    /// When the run is closed, batches that still run are ended instead of finished.
    pub cancel_running: bool,
}
