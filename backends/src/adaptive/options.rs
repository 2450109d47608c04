//! Options of the backend that sends each batch to one of two others.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

/// How batches are divided between the two backends, and what observes the decisions.
#[derive(Clone, Debug)]
pub struct AdaptiveOptions {
    /// Margins, prices and expectations of the policy.
    pub policy: crate::adaptive::policy::Options,
    /// A file that gets each event and decision as a line of JSON, one map after the other. [`explain`](super::explain()) reads it.
    pub trace: Option<PathBuf>,
    /// Receives each decision.
    pub witness: Arc<dyn DecisionObserver>,
}

impl Default for AdaptiveOptions {
    fn default() -> Self {
        AdaptiveOptions {
            policy: crate::adaptive::policy::Options::default(),
            trace: None,
            witness: Arc::new(NoopObserver),
        }
    }
}

/// Observes what an [`Adaptive`](super::Adaptive) backend decides. Its answers change nothing.
pub trait DecisionObserver: Send + Sync + Debug {
    /// A decision, in words, with its numbers.
    fn decided(&self, text: &str);

    /// The map goes on without the service, with the reason. Called at most once a map.
    fn left(&self, why: &str);
}

/// Logs that the service was left, and nothing else.
#[derive(Debug)]
pub(crate) struct NoopObserver;

impl DecisionObserver for NoopObserver {
    fn decided(&self, _text: &str) {}

    fn left(&self, why: &str) {
        log::warn!("{why}");
    }
}
