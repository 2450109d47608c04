//! What the maps of a configuration share: the settings, the backend, and whether workers were seen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use fastmap_backends::sandbox::{ConfinementLevel, missing_features};
use fastmap_backends::{Backend, Local, LocalOptions, local};

use crate::cloud;
use crate::error::{Error, ErrorKind};
use crate::nested_backend::SequentialBackend;
use crate::options::{ExecPolicy, Options, Verbosity};
use crate::report::{Console, notice, wait_until_written, warn};
use crate::settings::Settings;
use crate::worker::entry::check_entered;
use crate::worker::panics::{inside_call, inside_inline_call};

/// Shared by a configuration, its clones and their maps.
#[derive(Debug)]
pub(crate) struct Runtime {
    settings: Settings,
    /// An error here is told by the first `next()` of each map.
    backend: Result<Arc<dyn Backend>, String>,
    /// Workers have been there for a map.
    workers_seen: AtomicBool,
}

impl Runtime {
    pub(crate) fn new(mut settings: Settings) -> Result<Self, Error> {
        let backend: Arc<dyn Backend> = if local::inside_worker() {
            // A map for each item of another one would write a line for each.
            settings.verbosity = Verbosity::Quiet;
            Arc::new(SequentialBackend)
        } else if let Some(backend) = &settings.backend {
            Arc::clone(backend)
        } else {
            let here = || -> Result<Arc<dyn Backend>, Error> { Ok(Arc::new(local_backend(&settings)?)) };
            match &settings.account {
                Some(account) if settings.exec_policy == ExecPolicy::Cloud => {
                    Arc::new(cloud::backend(account, settings.verbosity, here)?)
                }
                Some(account) if settings.exec_policy == ExecPolicy::Adaptive => {
                    cloud::adaptive(account, &settings, here)?
                }
                _ => here()?,
            }
        };
        Ok(Runtime { settings, backend: Ok(backend), workers_seen: AtomicBool::new(false) })
    }

    /// A configuration whose maps tell why it could not be made.
    pub(crate) fn broken(error: &Error) -> Self {
        let settings = Options::new()
            .exec_policy(ExecPolicy::Local)
            .verbosity(Verbosity::Quiet)
            .resolve(|_| None)
            .expect("the defaults can be used");
        Runtime { settings, backend: Err(error.to_string()), workers_seen: AtomicBool::new(false) }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where batches go.
    pub(crate) fn backend(&self) -> Result<&dyn Backend, Error> {
        check_entered(self.settings.backend.is_some())?;
        if inside_inline_call() {
            return Ok(&SequentialBackend);
        }
        match &self.backend {
            Ok(backend) => Ok(backend.as_ref()),
            Err(message) => Err(Error::new(ErrorKind::Options, message.clone())),
        }
    }

    /// Whether the calling thread may take items of a map that begins now.
    pub(crate) fn inlines(&self) -> bool {
        let Settings { inline, exec_policy, backend, .. } = self.settings();
        *inline
            && *exec_policy != ExecPolicy::Cloud
            && backend.is_none()
            && !local::inside_worker()
            && !inside_call()
    }

    /// Whether workers have been there for a map; they are then, most likely, still there.
    pub(crate) fn workers_seen(&self) -> bool {
        self.workers_seen.load(Ordering::Relaxed)
    }

    pub(crate) fn see_workers(&self) {
        self.workers_seen.store(true, Ordering::Relaxed);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        wait_until_written();
    }
}

/// Says where batches run if that is not what the policy says.
pub(crate) fn log_differences(settings: &Settings) {
    match (settings.exec_policy, settings.has_secret) {
        (ExecPolicy::Cloud, false) => {
            warn("the policy is cloud, but no secret is set (FASTMAP_SECRET): running locally");
        }
        (ExecPolicy::Adaptive, false) if settings.verbosity >= Verbosity::Normal => {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| notice("no secret is set (FASTMAP_SECRET): running locally"));
        }
        _ => {}
    }
}

/// How local workers are to be confined, as far as this kernel can.
///
/// # Errors
/// If all layers are required and one is missing.
pub(crate) fn confinement(settings: &Settings) -> Result<ConfinementLevel, Error> {
    let demand = settings.confinement();
    let Some(lack) =
        (if demand == ConfinementLevel::Off { None } else { missing_features().into_iter().next() })
    else {
        return Ok(demand);
    };
    if demand == ConfinementLevel::Full {
        let message = format!(
            "{lack}, and the sandbox is required; set Options::sandbox (FASTMAP_SANDBOX) to auto, which confines as \
             far as it can, or to off"
        );
        return Err(Error::new(ErrorKind::Options, message).with_source(lack));
    }
    warn(&format!("workers are not fully confined: {lack} ({})", lack.why));
    Ok(demand)
}

/// The worker processes of this machine; none is started yet.
pub(crate) fn local_backend(settings: &Settings) -> Result<Local, Error> {
    let mut options = LocalOptions::new(settings.local_processes);
    options.relay = Arc::new(Console);
    options.sandbox = confinement(settings)?;
    options.memory = settings.worker_memory;
    options.stack = settings.worker_stack;
    options.most_items = settings.max_items_per_worker;
    Local::new(options).map_err(Error::of_backend)
}
