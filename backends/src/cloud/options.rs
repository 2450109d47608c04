//! Options of the client of a service.

use std::sync::Arc;
use std::time::Duration;

use crate::Backend;
use crate::cloud::notices::{Confirm, NoopListener, NoticeListener};
use crate::cloud::sign::Secret;
use crate::local::{OutputSink, StdioSink};

/// How long nothing good may be heard of the service before a run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Where the service is, and what it may cost.
#[derive(Clone, Debug)]
pub struct CloudOptions {
    /// The service's address: see [`ServiceUrl`](super::ServiceUrl) for what it may be.
    pub url: String,
    /// Names and signs for the account.
    pub secret: Secret,
    /// What each run may spend, in millionths of a credit; the service sees to it. `None`: what the account has.
    pub max_credits: Option<i64>,
    /// Where the lines go that workers print.
    pub relay: Arc<dyn OutputSink>,
    /// The listener for notices.
    pub notices: Arc<dyn NoticeListener>,
    /// The confirmation before the first batch of a run is sent; `None`: no question is asked.
    pub confirm: Option<Arc<dyn Confirm>>,
    /// Where the first items are tried for the estimate that `confirm` is asked with; their results are used. `None`:
    /// there is no estimate.
    pub probe: Option<Arc<dyn Backend>>,
    /// How long the service may give no good answer before a run is given up: longer than it takes to start it again.
    /// Where nothing has ever answered, it is 10 s at most.
    pub patience: Duration,
    /// Whether items are compressed on their way; `None`: where they shrink, and the service is on another machine.
    pub compress: Option<bool>,
}

impl CloudOptions {
    /// That service, by that secret, with no bound on what is spent, unasked; lines of workers go to the host's own
    /// output.
    pub fn new(url: impl Into<String>, secret: Secret) -> Self {
        CloudOptions {
            url: url.into(),
            secret,
            max_credits: None,
            relay: Arc::new(StdioSink),
            notices: Arc::new(NoopListener),
            confirm: None,
            probe: None,
            patience: PATIENCE,
            compress: None,
        }
    }
}
