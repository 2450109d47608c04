//! Options of the backend that sends each batch to one of two others.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

/// How batches are divided between the two backends, and the observer of the decisions.
#[derive(Clone, Debug)]
pub struct AdaptiveOptions {
    /// Margins, prices and expectations of the policy.
    pub policy: crate::adaptive::policy::Options,
    /// File to which each event and decision is appended as a line of JSON, one map after the other.
    /// [`explain`](super::explain()) reads it.
    pub trace: Option<PathBuf>,
    /// Observer of the decisions.
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

/// Observes the decisions of an [`Adaptive`](super::Adaptive) backend; it can't change them.
pub trait DecisionObserver: Send + Sync + Debug {
    /// Called with each decision as a sentence with its numbers.
    fn decided(&self, text: &str);

    /// Called when the map continues without the service, with the reason. At most once per map.
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
