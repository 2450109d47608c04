//! Options of the backend that sends each batch to one of two others.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

/// How the choice is made, and who is told of it.
#[derive(Clone, Debug)]
pub struct AdaptiveOptions {
    /// What is worth what.
    pub policy: crate::adaptive::policy::Options,
    /// Where what was seen and decided is written, a line of JSON each, one map behind the other. See [`explain`](super::explain()).
    pub trace: Option<PathBuf>,
    /// Who is told.
    pub witness: Arc<dyn Witness>,
}

impl Default for AdaptiveOptions {
    fn default() -> Self {
        AdaptiveOptions {
            policy: crate::adaptive::policy::Options::default(),
            trace: None,
            witness: Arc::new(Unseen),
        }
    }
}

/// Who is told what an [`Adaptive`](super::Adaptive) backend decides. Nothing depends on it.
pub trait Witness: Send + Sync + Debug {
    /// A decision, in words, with its numbers.
    fn decided(&self, text: &str);

    /// The service is of no use any more in this map, which goes on without it: once a map.
    fn left(&self, why: &str);
}

#[derive(Debug)]
pub(crate) struct Unseen;

impl Witness for Unseen {
    fn decided(&self, _text: &str) {}

    fn left(&self, why: &str) {
        log::warn!("{why}");
    }
}
