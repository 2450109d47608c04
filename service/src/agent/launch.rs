//! The seam between an agent and whatever confines its workers: who asks for a pool says for which program, and gets
//! one. `Unconfined` is for development; a jail is another [`Launch`].

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use fastmap_backends::local::Relay;
use fastmap_backends::{BackendError, Local, LocalOptions};

/// What a pool is wanted for. Pools are for one run alone: no worker ever serves two.
#[derive(Clone, Copy, Debug)]
pub struct PoolRequest<'a> {
    /// The run.
    pub run: &'a str,
    /// The stranger's program: whole, its hash checked, its ELF headers looked at.
    pub executable: &'a Path,
    /// What its workers must say that they are.
    pub identity: &'a str,
    /// Most worker processes.
    pub workers: usize,
    /// Where what they print goes.
    pub relay: &'a Arc<dyn Relay>,
}

/// Makes pools of workers that run strangers' programs.
pub trait Launch: Send + Sync + Debug {
    /// Tries whether what confines the workers holds. Called once, before the service listens.
    ///
    /// # Errors
    /// Says what is missing or what got out; the service then does not serve.
    fn self_test(&self) -> Result<(), String>;

    /// A pool that has no workers yet. Dropping it and its runs ends its workers.
    ///
    /// # Errors
    /// If none can be made.
    fn pool(&self, request: PoolRequest<'_>) -> Result<Local, BackendError>;
}

/// Starts workers as they are, with all that this user may do: for development, under `--insecure-no-sandbox`.
#[derive(Debug)]
pub struct Unconfined;

impl Launch for Unconfined {
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }

    fn pool(&self, request: PoolRequest<'_>) -> Result<Local, BackendError> {
        let mut options = LocalOptions::new(request.workers);
        options.program = Some(request.executable.to_owned());
        options.identity = Some(request.identity.to_owned());
        options.relay = Arc::clone(request.relay);
        Local::new(options)
    }
}
