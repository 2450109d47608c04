//! The backend as its user sees it: options, and a run for each map.

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
/// Nothing is sent before the first run is opened, and nothing is uploaded or charged before its first batch. Uploads
/// happen once, connections are kept, and what is known of the account is shared by all runs. Cheap to clone.
///
/// What can be repeated is repeated: an answer that does not come is asked for again until
/// [`patience`](CloudOptions::patience) is over, under the same number, so that it is charged once. A run that is
/// dropped, or whose process exits, is cancelled at the service if that can be reached; one whose process is killed
/// ends there with its lease (30 s, unless the service says otherwise).
#[derive(Clone, Debug)]
pub struct Cloud {
    session: Arc<Session>,
}

impl Cloud {
    /// A way to that service. No request is made yet.
    ///
    /// # Errors
    /// [`BackendError::Cloud`] if the address can't be one, with what it must be.
    pub fn new(options: CloudOptions) -> Result<Cloud, BackendError> {
        let url: ServiceUrl = options.url.parse().map_err(|error: super::UrlError| {
            BackendError::Cloud(error.to_string(), Some(Box::new(error)))
        })?;
        let http = Http::new(url, &options.secret);
        Ok(Cloud { session: Arc::new(Session::new(options, http)) })
    }

    /// What a short request takes, there and back; `None` before one was made.
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
/// If this process is a fork of the one that made the backend: its threads are not here.
fn check_owner(session: &Session) -> Result<(), BackendError> {
    match session.is_mine() {
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
        match self.shared().session.is_mine() {
            true => self.shared().submit(batch),
            // The next poll says so.
            false => Ok(()),
        }
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        check_owner(&self.shared().session)?;
        self.shared().completions.take(deadline)
    }

    fn cancel(&mut self, batch: BatchId) {
        if self.shared().session.is_mine() {
            self.shared().cancel(batch);
        }
    }

    fn readiness(&mut self) -> Readiness {
        match self.shared().session.is_mine() {
            true => self.shared().readiness(),
            false => Readiness::default(),
        }
    }

    fn prepare(&mut self, seen: Option<ItemCost>) {
        if self.shared().session.is_mine() {
            self.shared().prepare(seen);
        }
    }

    fn cost_so_far(&mut self) -> Receipt {
        match self.shared().session.is_mine() {
            true => self.shared().spent(),
            false => Receipt::default(),
        }
    }

    fn close(mut self: Box<Self>) -> Receipt {
        let shared = self.shared.take().expect("it is closed once");
        match shared.session.is_mine() {
            true => shared.close(),
            false => Receipt::default(),
        }
    }
}

impl Drop for CloudRun {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take().filter(|shared| shared.session.is_mine()) {
            shared.give_up();
        }
    }
}
