//! ADAPTIVE: each batch where the whole map ends soonest.
//!
//! `policy` decides, from what was seen alone: no clock, no I/O, no thread. The same code is played in virtual time over
//! thousands of random worlds by `simulator/`, and so is `held`, which is what both sides have. `run` goes by them with two
//! real runs; `limits`
//! knows what a service's own limits keep from an answer; `trace` writes what was seen and decided, `explain` tells it to
//! people.

mod explain;
pub mod held;
mod limits;
pub mod policy;
mod run;
mod trace;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use explain::explain;

use crate::error::BackendError;
use crate::job::Job;
use crate::{Backend, Run};

/// How the choice is made, and who is told of it.
#[derive(Clone, Debug)]
pub struct AdaptiveOptions {
    /// What is worth what.
    pub policy: policy::Options,
    /// Where what was seen and decided is written, a line of JSON each, one map behind the other. See [`explain`].
    pub trace: Option<PathBuf>,
    /// Who is told.
    pub witness: Arc<dyn Witness>,
}

impl Default for AdaptiveOptions {
    fn default() -> Self {
        AdaptiveOptions { policy: policy::Options::default(), trace: None, witness: Arc::new(Unseen) }
    }
}

/// Who is told what an [`Adaptive`] backend decides. Nothing depends on it.
pub trait Witness: Send + Sync + Debug {
    /// A decision, in words, with its numbers.
    fn decided(&self, text: &str);

    /// The service is of no use any more in this map, which goes on without it: once a map.
    fn left(&self, why: &str);
}

#[derive(Debug)]
struct Unseen;

impl Witness for Unseen {
    fn decided(&self, _text: &str) {}

    fn left(&self, why: &str) {
        log::warn!("{why}");
    }
}

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
        Ok(Box::new(run::AdaptiveRun::new(here, Arc::clone(&self.cloud), job, self.options.clone())))
    }
}

/// The bill is waited for so long at the end of a map; what is known is told if it takes longer.
const BILL: Duration = Duration::from_millis(20);
