//! Work that waits for the disk.

use fastmap_backends::cloud::ProblemCode;
use tokio::task::spawn_blocking;

use crate::problem::{Refusal, refuse};

/// Does what waits for the disk on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    spawn_blocking(work).await.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))
}
