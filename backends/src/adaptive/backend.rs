//! Backend that sends each batch to one of two others.

use std::fmt::Debug;
use std::sync::Arc;

use crate::adaptive::options::AdaptiveOptions;
use crate::execution::job::Job;
use crate::model::error::BackendError;
use crate::{Backend, Run};

/// Runs each batch on one of two backends: on this machine, or in a service if that ends the whole map sooner
/// and is worth its credits.
///
/// Work starts locally at once. The service is not contacted before the map is long enough. Nothing is
/// uploaded or opened there before that is predicted to help, and nothing is charged for maps that end
/// before.
///
/// Near the end, a straggling batch on one side is also run on the other. The first answer counts, and so
/// does the first loss: it splits the batch. A service that is slow, full, out of credits or gone costs the
/// map nothing: its batches return to this machine.
#[derive(Clone, Debug)]
pub struct Adaptive {
    local: Arc<dyn Backend>,
    cloud: Arc<dyn Backend>,
    options: AdaptiveOptions,
}

impl Adaptive {
    /// Creates a backend that chooses between these two.
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
