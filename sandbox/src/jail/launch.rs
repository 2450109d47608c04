//! Sets up jails, and starts programs in them.

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

/// A factory of jails on a machine that can make them.
#[derive(Clone, Debug)]
pub struct Jail {
    bubblewrap: Bubblewrap,
    cgroups: Cgroups,
    filters: Filters,
    /// Whether this process may give each worker a user of its own.
    pub(crate) root: bool,
    /// Whether this process may mount, and so give a worker's user access to files whose paths that user
    /// can't look up.
    mounts: bool,
    /// The run that the workers belong to.
    run: Option<RunGroup>,
}

/// A run's group, and the bytes of memory that all runs of its account share.
#[derive(Clone, Debug)]
struct RunGroup {
    group: Arc<Group>,
    memory: u64,
}

impl Jail {
    /// Checks whether this machine meets the requirements of jails. Starts bubblewrap several times; makes
    /// and removes a control group.
    ///
    /// # Errors
    /// Names the missing requirement. All of them are necessary.
    pub fn check() -> Result<Jail, SetupError> {
        let filters = filters()?;
        let bubblewrap = Bubblewrap::find()?;
        let cgroups = Cgroups::find()?;
        let root = Uid::effective().is_root();
        let mounts = root && crate::jail::shown::detached(Path::new("/proc/self/exe")).is_ok();
        let mut jail = Jail { bubblewrap, cgroups, filters, root, mounts, run: None };
        let mut tried = jail.try_namespaces();
        if jail.mounts && tried.is_err() {
            // A seccomp filter around this process may deny what its capabilities allow.
            jail.mounts = false;
            tried = jail.try_namespaces();
        }
        tried.map(|()| jail)
    }

    /// Reports each requirement of [`Jail::check`] separately: its name, and the version or error found.
    pub fn survey() -> Vec<(&'static str, Result<String, SetupError>)> {
        let actions = filters().map(|_| "filters that answer by errors".to_owned());
        let bubblewrap = Bubblewrap::find().map(|found| format!("version {}", found.version));
        let cgroups = Cgroups::find().map(|found| format!("{}: memory, pids, cpu", found.version()));
        let mut all = vec![("seccomp", actions), ("bubblewrap", bubblewrap), ("control groups", cgroups)];
        // Namespaces can be tried only if all other requirements are met.
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

    /// Describes the jail's mechanisms in one line.
    pub fn describe(&self) -> String {
        let users = if self.root { "a user for each worker" } else { "the service's own user" };
        format!("bubblewrap {}, cgroup {}, seccomp, {users}", self.bubblewrap.version, self.cgroups.version())
    }

    /// Returns the same jails for the workers of one run of an account. The kernel divides CPU time equally
    /// between accounts, however many workers each has, and all workers of an account share `memory` bytes.
    /// (All of them must be made from `self`, or from a clone of it.)
    ///
    /// # Errors
    /// If a control group can't be made.
    pub fn for_run(&self, account: i64, memory: u64) -> io::Result<Jail> {
        let group = self.cgroups.run(account, memory)?;
        Ok(Jail { run: Some(RunGroup { group, memory }), ..self.clone() })
    }

    /// CPU time of all processes that ever ran in jails of this run, from start to exit. It includes
    /// bubblewrap's, a worker's before it connects, and that of dead workers. `None` outside of a run, see
    /// [`Jail::for_run`].
    pub fn cpu(&self) -> Option<Duration> {
        self.run.as_ref().map(|run| run.group.cpu())
    }

    /// Bytes of memory that all jails of the run's account share; `None` outside of a run.
    pub fn shared_memory(&self) -> Option<u64> {
        self.run.as_ref().map(|run| run.memory)
    }

    /// Whether bubblewrap looks up the paths of programs and sockets as the worker's user.
    pub fn looks_up(&self) -> bool {
        self.root && !self.mounts
    }

    /// Returns the command that starts `spec` in a jail of its own, and the guard that the caller must hold
    /// while it runs. The caller sets its standard streams; the process inherits no other descriptor.
    ///
    /// The child is bubblewrap, which exits with the jailed process's exit code. If a signal killed that
    /// process, the exit code is 128 plus the signal's number.
    ///
    /// # Errors
    /// If the control group can't be made, or a file of the executable can't be opened.
    pub fn command(&self, spec: &Spec<'_>) -> io::Result<(Command, Guard)> {
        let group = self.cgroups.worker(self.run.as_ref().map(|run| &run.group), &spec.limits)?;
        let user = self.root.then(User::lease).transpose()?;
        let number = user.as_ref().map(User::number);
        let command =
            self.bubblewrap.command(spec, &self.filters, group.procs_files()?, number, self.mounts)?;
        Ok((command, Guard { group, _user: user }))
    }

    /// Starts bubblewrap itself in a jail. Its error message names what the kernel denies.
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
        // Inside the jail, bubblewrap fails at the first file of /proc that it reads, or prints its usage.
        let words = String::from_utf8_lossy(&output.stderr);
        if ["overflowuid", "usage"].iter().any(|word| words.contains(word)) {
            Ok(())
        } else {
            let why = switches::explain(Path::new("/proc/sys"), self.root);
            Err(refused(format!("{} ({why})", words.trim())))
        }
    }
}

/// Compiles the filters, if this kernel supports their actions.
pub(crate) fn filters() -> Result<Filters, SetupError> {
    seccomp::available(libc::SECCOMP_RET_ERRNO).map_err(|error| SetupError::Seccomp(error.to_string()))?;
    let filters = Filters::compile().map_err(|error| SetupError::Seccomp(error.to_string()))?;
    Ok(filters)
}

/// Guard of a jailed process. The owner holds it until the process has exited; dropping it kills whatever is
/// left in the jail.
#[derive(Debug)]
pub struct Guard {
    // Dropped before the user: no process of the group runs any more when another worker gets the user.
    group: Group,
    _user: Option<User>,
}

impl Guard {
    /// Usage so far; complete once the process is dead.
    pub fn usage(&self) -> Usage {
        self.group.usage()
    }

    /// CPU time so far: the part of [`Guard::usage`] that is cheap to read.
    pub fn cpu(&self) -> Duration {
        self.group.cpu()
    }

    /// Kills all processes in the jail. Returns true when none is left.
    pub fn end(&self) -> bool {
        self.group.end()
    }
}
