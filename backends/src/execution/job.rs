//! What a run is of: a function of an executable, its context and what is known of the input.
//! Made once a map by the host's adapter; read by every backend.

use std::time::Duration;

use crate::execution::function::FunctionId;
use crate::model::context::Context;
use crate::model::ids::JobId;

/// One map, as backends see it. Cheap to share.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Which function to call.
    pub function: FunctionId,
    /// The encoded context, sent once to each worker; empty where the function has none.
    pub context: Context,
    /// The user's name for the map.
    pub label: Option<String>,
    /// Number of items, if it is known from the start.
    pub items: Option<u64>,
    /// An item that runs longer is given up and its worker ended.
    pub item_timeout: Option<Duration>,
    /// The map ends at the first failed item: a worker should tell a failure at once and give the rest of its batch
    /// back. A backend that can't tells it with the batch.
    pub fail_fast: bool,
    /// Batches that still run when the run is closed are ended instead of running on.
    pub cancel_running: bool,
}
