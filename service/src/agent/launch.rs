//! The seam between an agent and whatever confines its workers: who asks for a pool says for which program, and gets
//! one. `InJails` is for strangers; `Unconfined` is for development.

use std::fmt::Debug;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use fastmap_backends::local::{CpuTimes, Jailed, Relay};
use fastmap_backends::{BackendError, Local, LocalOptions};
use fastmap_sandbox::jail::{Jail, Limits};
use tempfile::TempDir;

/// Bytes that one worker may print in its life.
const OUTPUT: u64 = 1 << 20;
/// The program's name in its folder.
const PROGRAM: &str = "program";

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

    /// What confines the workers, in a few words.
    fn describe(&self) -> String;

    /// A pool that has no workers yet. Dropping it and its runs ends its workers.
    ///
    /// # Errors
    /// If none can be made.
    fn pool(&self, request: PoolRequest<'_>) -> Result<Workers, BackendError>;
}

/// What a [`Launch`] makes.
#[derive(Debug)]
pub struct Workers {
    /// The pool.
    pub local: Local,
    /// What counts the CPU time of all its workers so far; `None`: they are believed.
    pub meter: Option<Arc<dyn Meter>>,
}

/// Counts what workers use, without asking them.
pub trait Meter: Send + Sync + Debug {
    /// CPU time of all workers of a pool so far.
    fn cpu(&self) -> CpuTimes;
}

/// One run's jails, and the folder that its program lies in meanwhile.
#[derive(Debug)]
struct OfRun {
    jailed: Arc<Jailed>,
    _folder: TempDir,
}

impl Meter for OfRun {
    fn cpu(&self) -> CpuTimes {
        self.jailed.cpu()
    }
}

/// A program in a folder of its own. bubblewrap looks its path up as the worker's user, who can't enter the service's
/// folders: they are closed, for the database is there.
fn expose(executable: &Path) -> io::Result<TempDir> {
    // To be entered, not to be looked through.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir()?;
    let path = folder.path().join(PROGRAM);
    fs::hard_link(executable, &path).or_else(|_| fs::copy(executable, &path).map(drop))?;
    Ok(folder)
}

/// Starts each worker in a jail of its own.
#[derive(Debug)]
pub struct InJails {
    jail: Jail,
    limits: Limits,
}

impl InJails {
    /// Jails with so many bytes of memory each.
    ///
    /// # Errors
    /// Names what this machine lacks for jails.
    pub fn new(memory: u64) -> Result<Self, String> {
        let jail = Jail::check().map_err(|refusal| refusal.to_string())?;
        Ok(InJails { jail, limits: Limits { memory, ..Limits::default() } })
    }
}

impl Launch for InJails {
    fn self_test(&self) -> Result<(), String> {
        // Begins with `probe_if_asked`.
        let attacked = self.jail.attack(Path::new("/proc/self/exe"));
        attacked.map(drop).map_err(|refusal| refusal.to_string())
    }

    fn describe(&self) -> String {
        self.jail.describe()
    }

    fn pool(&self, request: PoolRequest<'_>) -> Result<Workers, BackendError> {
        let folder = expose(request.executable)
            .map_err(|error| BackendError::Other(format!("the program can't be laid out: {error}")))?;
        let program = folder.path().join(PROGRAM);
        let jailed = Jailed::new(self.jail.clone(), &program, self.limits.clone());
        let jailed = jailed.map_err(|unfit| BackendError::Other(format!("it can't run here: {unfit}")))?;
        let jailed = Arc::new(jailed);
        let mut options = jailed.options(request.workers, OUTPUT);
        // As it was when it was uploaded.
        options.identity = Some(request.identity.to_owned());
        options.relay = Arc::clone(request.relay);
        let meter = Arc::new(OfRun { jailed, _folder: folder });
        Ok(Workers { local: Local::new(options)?, meter: Some(meter) })
    }
}

/// Starts workers as they are, with all that this user may do: for development, under `--insecure-no-sandbox`.
#[derive(Debug)]
pub struct Unconfined;

impl Launch for Unconfined {
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }

    fn describe(&self) -> String {
        "no jail".to_owned()
    }

    fn pool(&self, request: PoolRequest<'_>) -> Result<Workers, BackendError> {
        let mut options = LocalOptions::new(request.workers);
        options.program = Some(request.executable.to_owned());
        options.identity = Some(request.identity.to_owned());
        options.relay = Arc::clone(request.relay);
        Ok(Workers { local: Local::new(options)?, meter: None })
    }
}
