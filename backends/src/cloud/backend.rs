//! Public face of the cloud backend: [`Cloud`], and a run for each map.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::http::Http;
use super::url::ServiceUrl;
use crate::backend::SubmitError;
use crate::cloud::options::CloudOptions;
use crate::cloud::run_handle::RunHandle;
use crate::cloud::session::Session;
use crate::cloud::{exit_hook, run_thread};
use crate::execution::job::Job;
use crate::model::batch::Batch;
use crate::model::completion::Completion;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{Backend, Capacity, ItemCost, Readiness, Run};

/// Runs batches at a service, which starts this very program in jails of its own.
///
/// Nothing is sent before the first run is opened, and nothing is uploaded or charged before its first batch.
/// Uploads happen once, connections are kept alive, and all runs share the cached account data. Cheap to
/// clone.
///
/// Failed requests are retried: an answer that does not arrive is requested again under the same number until
/// [`patience`](CloudOptions::patience) is exceeded, so it is charged once. A run that is dropped, or whose
/// process exits, is cancelled at the service if the service can be reached. A run whose process is killed
/// ends there with its lease (30 s, unless the service sets another).
#[derive(Clone, Debug)]
pub struct Cloud {
    session: Arc<Session>,
}

impl Cloud {
    /// Creates a client of that service. Makes no request yet.
    ///
    /// # Errors
    /// [`BackendError::Cloud`] if the address is invalid; the message describes a valid one.
    pub fn new(options: CloudOptions) -> Result<Cloud, BackendError> {
        let url: ServiceUrl = options.url.parse().map_err(|error: super::UrlError| {
            BackendError::Cloud(error.to_string(), Some(Box::new(error)))
        })?;
        let http = Http::new(url, &options.secret);
        Ok(Cloud { session: Arc::new(Session::new(options, http)) })
    }

    /// Round-trip time of a short request; `None` until one was made.
    pub fn round_trip(&self) -> Option<Duration> {
        self.session.round_trip()
    }
}

impl Backend for Cloud {
    fn name(&self) -> &'static str {
        "cloud"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        crate::local::fill_standard();
        check_owner(&self.session)?;
        let shared = Arc::new(RunHandle::new(Arc::clone(&self.session), job));
        exit_hook::watch(&shared);
        run_thread::start(&shared)?;
        Ok(Box::new(CloudRun { shared: Some(shared) }))
    }
}

/// # Errors
/// If this process is a fork of the one that created the backend: the backend's threads do not exist here.
fn check_owner(session: &Session) -> Result<(), BackendError> {
    match session.is_own_process() {
        true => Ok(()),
        false => Err(BackendError::Forked { owner: session.owner, this: std::process::id() }),
    }
}

/// One map at the service.
struct CloudRun {
    /// `None` once it is closed.
    shared: Option<Arc<RunHandle>>,
}

impl CloudRun {
    fn shared(&self) -> &Arc<RunHandle> {
        self.shared.as_ref().expect("it is not closed")
    }
}

impl Run for CloudRun {
    fn capacity(&mut self) -> Capacity {
        self.shared().capacity()
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        match self.shared().session.is_own_process() {
            true => self.shared().submit(batch),
            // The next poll returns the error.
            false => Ok(()),
        }
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        check_owner(&self.shared().session)?;
        self.shared().completions.take(deadline)
    }

    fn cancel(&mut self, batch: BatchId) {
        if self.shared().session.is_own_process() {
            self.shared().cancel(batch);
        }
    }

    fn readiness(&mut self) -> Readiness {
        match self.shared().session.is_own_process() {
            true => self.shared().readiness(),
            false => Readiness::default(),
        }
    }

    fn prepare(&mut self, seen: Option<ItemCost>) {
        if self.shared().session.is_own_process() {
            self.shared().prepare(seen);
        }
    }

    fn cost_so_far(&mut self) -> Receipt {
        match self.shared().session.is_own_process() {
            true => self.shared().spent(),
            false => Receipt::default(),
        }
    }

    fn close(mut self: Box<Self>) -> Receipt {
        let shared = self.shared.take().expect("it is closed once");
        match shared.session.is_own_process() {
            true => shared.close(),
            false => Receipt::default(),
        }
    }
}

impl Drop for CloudRun {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take().filter(|shared| shared.session.is_own_process()) {
            shared.cancel_run();
        }
    }
}
