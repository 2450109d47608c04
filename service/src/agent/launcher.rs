//! The seam between an agent and whatever confines its workers: who asks for a pool says for which program, and gets
//! one. `JailLauncher` is for strangers; `PlainLauncher` is for development.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use fastmap_backends::cloud::Locale;
use fastmap_backends::local::{Budget, CpuTimes, Jailed, OutputSink};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use fastmap_backends::{BackendError, Local, LocalOptions};
use fastmap_sandbox::elf::ElfError;
use fastmap_sandbox::jail::{Executable, Jail, Limits, Program, Scratch};
use log::LevelFilter;

use crate::executable::Examine;

/// Bytes of lines of one worker that are passed on at once, and each second.
const OUTPUT: u64 = 1 << 20;
/// Bytes that answers of one account's workers may take in this process until they are dealt with: a client
/// with the default `read_ahead` wants 64 MB at a time.
const ANSWERS: u64 = 128 << 20;
/// Those of all accounts, and what each has of it whatever the others take.
const ANSWERS_OF_ALL: u64 = 256 << 20;
const ANSWERS_FOR_SURE: u64 = 8 << 20;
/// Log records that workers send before their first batch, which says up to which level its client wants
/// them.
const LEVEL: LevelFilter = LevelFilter::Info;

/// What a pool is wanted for. Pools are for one run alone: no worker ever serves two.
#[derive(Clone, Copy, Debug)]
pub struct PoolRequest<'a> {
    /// The run.
    pub run: &'a str,
    /// Its account, whose pools share CPU time and memory.
    pub account: i64,
    /// The stranger's program: whole, its hash checked, its ELF headers looked at.
    pub executable: &'a Path,
    /// What its workers must say that they are.
    pub identity: &'a str,
    /// Time zone and language that they have. (Workers that nothing confines have the service's own.)
    pub locale: &'a Locale,
    /// Most worker processes.
    pub workers: usize,
    /// Where what they print goes.
    pub relay: &'a Arc<dyn OutputSink>,
}

/// Makes pools of workers that run strangers' programs.
pub trait Launch: Examine {
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
    pub meter: Option<Arc<dyn CpuMeter>>,
}

/// Counts what workers use, without asking them.
pub trait CpuMeter: Send + Sync + Debug {
    /// CPU time of all workers of a pool so far.
    fn cpu(&self) -> CpuTimes;

    /// Ends all workers of the pool that run now.
    fn end(&self);

    /// Threads and processes that were refused to the workers so far, and how many threads each may have.
    fn refused_threads(&self) -> (u64, u32) {
        (0, 0)
    }
}

/// One run's jails, and its program where they can start it.
#[derive(Debug)]
struct RunJail {
    jailed: Arc<Jailed>,
    _program: Program,
}

impl CpuMeter for RunJail {
    fn cpu(&self) -> CpuTimes {
        self.jailed.cpu()
    }

    fn end(&self) {
        self.jailed.end();
    }

    fn refused_threads(&self) -> (u64, u32) {
        self.jailed.refused_threads()
    }
}

/// Starts each worker in a jail of its own.
#[derive(Debug)]
pub struct JailLauncher {
    jail: Jail,
    limits: Limits,
    /// Bytes of memory of all jails of an account together.
    account_memory: u64,
    answers: Answers,
}

/// The memory for answers: a part of it for each account.
#[derive(Debug)]
struct Answers {
    all: Arc<Budget>,
    accounts: Mutex<HashMap<i64, Weak<Budget>>>,
}

impl Answers {
    fn new() -> Answers {
        Answers { all: Budget::new(ANSWERS_OF_ALL), accounts: Mutex::default() }
    }

    /// The part of an account, which all its pools share, and answers that outlive their pool.
    fn of(&self, account: i64) -> Arc<Budget> {
        let mut accounts = self.accounts.lock_unpoisoned();
        accounts.retain(|_, budget| budget.strong_count() > 0);
        accounts.get(&account).and_then(Weak::upgrade).unwrap_or_else(|| {
            let budget = Budget::within(&self.all, ANSWERS, ANSWERS_FOR_SURE);
            accounts.insert(account, Arc::downgrade(&budget));
            budget
        })
    }
}

impl JailLauncher {
    /// Jails with so many bytes of memory each, and so many for all of an account.
    ///
    /// # Errors
    /// Names what this machine lacks for jails.
    pub fn new(memory: u64, account_memory: u64) -> Result<Self, String> {
        let jail = Jail::check().map_err(|refusal| refusal.to_string())?;
        if jail.looks_up() {
            Scratch::let_through().map_err(|error| format!("the temporary folder: {error}"))?;
        }
        Ok(JailLauncher {
            jail,
            limits: Limits { memory, ..Limits::default() },
            account_memory,
            answers: Answers::new(),
        })
    }
}

impl Examine for JailLauncher {
    fn examine(&self, executable: &Path) -> Result<(), ElfError> {
        Executable::examine(executable).map(drop)
    }
}

impl Launch for JailLauncher {
    fn self_test(&self) -> Result<(), String> {
        // Begins with `probe_if_asked`.
        let attacked = self.jail.attack(Path::new("/proc/self/exe"));
        attacked.map(drop).map_err(|refusal| refusal.to_string())
    }

    fn describe(&self) -> String {
        self.jail.describe()
    }

    fn pool(&self, request: PoolRequest<'_>) -> Result<Workers, BackendError> {
        let refused =
            |error: io::Error| BackendError::Other(format!("the program can't be started: {error}"));
        let program = self.jail.program(request.executable).map_err(refused)?;
        let jail = self.jail.for_run(request.account, self.account_memory).map_err(refused)?;
        let jailed = Jailed::new(jail, program.path(), self.limits.clone());
        let jailed = jailed.map_err(|unfit| BackendError::Other(format!("it can't run here: {unfit}")))?;
        let Locale { variables, zone } = request.locale.clone();
        let jailed = Arc::new(jailed.surrounded(variables, zone));
        let mut options = jailed.options(request.workers, OUTPUT);
        // As it was when it was uploaded.
        options.identity = Some(request.identity.to_owned());
        options.relay = Arc::clone(request.relay);
        options.level = Some(LEVEL);
        options.budget = Some(self.answers.of(request.account));
        let meter = Arc::new(RunJail { jailed, _program: program });
        Ok(Workers { local: Local::new(options)?, meter: Some(meter) })
    }
}

/// Starts workers as they are, with all that this user may do: for development, under `--insecure-no-sandbox`.
#[derive(Debug)]
pub struct PlainLauncher;

impl Examine for PlainLauncher {
    /// The loader finds libraries by rules of its own here (variables, paths in the executable): it says what is missing.
    fn examine(&self, _executable: &Path) -> Result<(), ElfError> {
        Ok(())
    }
}

impl Launch for PlainLauncher {
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
        options.level = Some(LEVEL);
        Ok(Workers { local: Local::new(options)?, meter: None })
    }
}
