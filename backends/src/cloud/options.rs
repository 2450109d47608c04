//! Options of the client of a service.

use std::sync::Arc;
use std::time::Duration;

use crate::Backend;
use crate::cloud::notices::{Confirm, NoopListener, NoticeListener};
use crate::cloud::sign::Secret;
use crate::local::{OutputSink, StdioSink};

/// Time without a good answer from the service after which a run fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Options of the [`Cloud`](super::Cloud) backend.
#[derive(Clone, Debug)]
pub struct CloudOptions {
    /// The service's address; see [`ServiceUrl`](super::ServiceUrl) for its form.
    pub url: String,
    /// Identifies the account and signs requests.
    pub secret: Secret,
    /// Spending limit of each run, in millionths of a credit, enforced by the service. `None`: the account's
    /// balance.
    pub max_credits: Option<i64>,
    /// Receives the lines that workers print.
    pub relay: Arc<dyn OutputSink>,
    /// The listener for notices.
    pub notices: Arc<dyn NoticeListener>,
    /// The confirmation before the first batch of a run is sent; `None`: no question is asked.
    pub confirm: Option<Arc<dyn Confirm>>,
    /// Backend that runs the first items for the estimate given to `confirm`; their results are used. `None`:
    /// no estimate.
    pub probe: Option<Arc<dyn Backend>>,
    /// Time without a good answer from the service after which a run fails: longer than a restart of the
    /// service takes. At most 10 s until the first answer ever.
    pub patience: Duration,
    /// Whether items are compressed. `None`: if they shrink, and the service is on another machine.
    pub compress: Option<bool>,
}

impl CloudOptions {
    /// Default options: no spending limit, no confirmation; workers' lines go to the host's own output.
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
