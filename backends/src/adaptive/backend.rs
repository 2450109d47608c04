//! The backend that sends each batch to one of two others.

use std::fmt::Debug;
use std::sync::Arc;

use crate::adaptive::options::AdaptiveOptions;
use crate::execution::job::Job;
use crate::model::error::BackendError;
use crate::{Backend, Run};

/// Runs each batch on one of two backends: here, or in a service, where that ends the whole map sooner and is worth its
/// credits.
///
/// Work begins here at once. Nothing is asked of the service before the map is long enough, nothing is uploaded or opened
/// there before that is predicted to help, and nothing is charged for what ends before. Near the end, a batch that lags on one
/// side is done on the other as well; the first answer counts, and so does the first loss, by which the batch is divided. A service that is slow, full, out of credits or gone costs the
/// map nothing: its batches come home.
#[derive(Clone, Debug)]
pub struct Adaptive {
    local: Arc<dyn Backend>,
    cloud: Arc<dyn Backend>,
    options: AdaptiveOptions,
}

impl Adaptive {
    /// Chooses between these two.
    pub fn new(local: Arc<dyn Backend>, cloud: Arc<dyn Backend>, options: AdaptiveOptions) -> Self {
        Adaptive { local, cloud, options }
    }
}

impl Backend for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        let here = self.local.open(Arc::clone(&job))?;
        Ok(Box::new(crate::adaptive::run::AdaptiveRun::new(
            here,
            Arc::clone(&self.cloud),
            job,
            self.options.clone(),
        )))
    }
}
