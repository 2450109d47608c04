//! Jails: made ready for a program, and programs started in them.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;

use crate::jail::bubblewrap::Bubblewrap;
use crate::jail::cgroup::{Cgroups, Group};
use crate::jail::filter::Filters;
use crate::jail::spec::{Limits, SetupError, Spec, Usage};
use crate::jail::switches;
use crate::jail::users::User;
use crate::seccomp;

/// A machine that can make jails.
#[derive(Clone, Debug)]
pub struct Jail {
    bubblewrap: Bubblewrap,
    cgroups: Cgroups,
    filters: Filters,
    /// This process may give each worker a user of its own.
    pub(crate) root: bool,
    /// This process may mount things, and so show a worker's user files that it could not look up.
    mounts: bool,
    /// The run that workers are of.
    run: Option<OfRun>,
}

/// A run's group, and the bytes of memory that it shares with others of its account.
#[derive(Clone, Debug)]
struct OfRun {
    group: Arc<Group>,
    memory: u64,
}

impl Jail {
    /// Finds out whether this machine has what jails are made of. Starts bubblewrap some times; makes and removes a group.
    ///
    /// # Errors
    /// Names what is missing. There is no jail with less.
    pub fn check() -> Result<Jail, SetupError> {
        let filters = filters()?;
        let bubblewrap = Bubblewrap::find()?;
        let cgroups = Cgroups::find()?;
        let root = Uid::effective().is_root();
        let mounts = root && crate::jail::shown::detached(Path::new("/proc/self/exe")).is_ok();
        let mut jail = Jail { bubblewrap, cgroups, filters, root, mounts, run: None };
        let mut tried = jail.try_namespaces();
        if jail.mounts && tried.is_err() {
            // A filter of system calls around this process may refuse what its capabilities allow.
            jail.mounts = false;
            tried = jail.try_namespaces();
        }
        tried.map(|()| jail)
    }

    /// What [`Jail::check`] looks at, each part for itself: its name, and what was found of it.
    pub fn survey() -> Vec<(&'static str, Result<String, SetupError>)> {
        let actions = filters().map(|_| "filters that answer by errors".to_owned());
        let bubblewrap = Bubblewrap::find().map(|found| format!("version {}", found.version));
        let cgroups = Cgroups::find().map(|found| format!("{}: memory, pids, cpu", found.version()));
        let mut all = vec![("seccomp", actions), ("bubblewrap", bubblewrap), ("control groups", cgroups)];
        // They can be tried where all else is there.
        if all.iter().all(|(_, found)| found.is_ok()) {
            let made = Jail::check().map(|_| "user, mount, pid, net, ipc, uts, cgroup".to_owned());
            all.push(("namespaces", made));
        }
        if Uid::effective().is_root() {
            all.push((
                "worker users",
                crate::jail::users::describe().map_err(|error| SetupError::Users(error.to_string())),
            ));
        }
        all
    }

    /// What it is made of, in one line.
    pub fn describe(&self) -> String {
        let users = if self.root { "a user for each worker" } else { "the service's own user" };
        format!("bubblewrap {}, cgroup {}, seccomp, {users}", self.bubblewrap.version, self.cgroups.version())
    }

    /// The same jails for the workers of one run of an account. All workers of an account share its CPU time
    /// with those of other accounts as if there were one of each, and have `memory` bytes of memory together.
    /// (All of them must be made from this one, or from a clone of it.)
    ///
    /// # Errors
    /// If a control group is refused.
    pub fn for_run(&self, account: i64, memory: u64) -> io::Result<Jail> {
        let group = self.cgroups.run(account, memory)?;
        Ok(Jail { run: Some(OfRun { group, memory }), ..self.clone() })
    }

    /// CPU time of all that ever ran in jails of this run, from the first moment of each to its last:
    /// bubblewrap's, a worker's before it connects, and what dead ones have used. `None` outside of a run,
    /// see [`Jail::for_run`].
    pub fn cpu(&self) -> Option<Duration> {
        self.run.as_ref().map(|run| run.group.cpu())
    }

    /// Bytes of memory that all jails of the run's account have together; `None` as for [`Jail::cpu`].
    pub fn shared_memory(&self) -> Option<u64> {
        self.run.as_ref().map(|run| run.memory)
    }

    /// bubblewrap looks up the paths of programs and sockets as the worker's user.
    pub fn looks_up(&self) -> bool {
        self.root && !self.mounts
    }

    /// The command that starts `spec` in a jail of its own, and the guard that its owner must hold while it runs.
    /// Its standard streams are the caller's to set; no other descriptor gets in.
    ///
    /// The child that is started is bubblewrap, which ends as the jailed process does; 128 and the signal's number is
    /// its exit code where that was ended by a signal.
    ///
    /// # Errors
    /// If the control group or a file of the executable is refused.
    pub fn command(&self, spec: &Spec<'_>) -> io::Result<(Command, Guard)> {
        let group = self.cgroups.worker(self.run.as_ref().map(|run| &run.group), &spec.limits)?;
        let user = self.root.then(User::lease).transpose()?;
        let number = user.as_ref().map(User::number);
        let command = self.bubblewrap.command(spec, &self.filters, group.doors()?, number, self.mounts)?;
        Ok((command, Guard { group, _user: user }))
    }

    /// Starts bubblewrap itself in a jail: it says what the kernel refuses.
    fn try_namespaces(&self) -> Result<(), SetupError> {
        let refused = |why: String| SetupError::Namespaces(why);
        let executable = self.bubblewrap.examine().map_err(|error| refused(error.to_string()))?;
        let spec = Spec {
            executable: &executable,
            environment: &[],
            zone: None,
            socket: None,
            limits: Limits::default(),
        };
        let (mut command, guard) = self.command(&spec).map_err(|error| refused(error.to_string()))?;
        let output = command.stdin(std::process::Stdio::null()).output();
        drop(guard);
        let output = output.map_err(|error| refused(error.to_string()))?;
        // Started inside, it fails at the first file of /proc that it reads, or says how it is used.
        let words = String::from_utf8_lossy(&output.stderr);
        if ["overflowuid", "usage"].iter().any(|word| words.contains(word)) {
            Ok(())
        } else {
            let why = switches::explain(Path::new("/proc/sys"), self.root);
            Err(refused(format!("{} ({why})", words.trim())))
        }
    }
}

/// The filters, if this kernel has what they ask for.
pub(crate) fn filters() -> Result<Filters, SetupError> {
    seccomp::available(libc::SECCOMP_RET_ERRNO).map_err(|error| SetupError::Seccomp(error.to_string()))?;
    let filters = Filters::compile().map_err(|error| SetupError::Seccomp(error.to_string()))?;
    Ok(filters)
}

/// Held by who started a jailed process, until it has seen its end. Dropping it ends whatever is left in the jail.
#[derive(Debug)]
pub struct Guard {
    // Before the user: nothing of it runs any more when the user is given to another one.
    group: Group,
    _user: Option<User>,
}

impl Guard {
    /// What was used so far; complete once the process is dead.
    pub fn usage(&self) -> Usage {
        self.group.usage()
    }

    /// CPU time that was used so far: the part of [`Guard::usage`] that is cheap to ask for.
    pub fn cpu(&self) -> Duration {
        self.group.cpu()
    }

    /// Ends all that runs in the jail. True when nothing is left.
    pub fn end(&self) -> bool {
        self.group.end()
    }
}
