//! A process of somebody else's in a jail.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fastmap_sandbox::jail::{Executable, Guard, Jail, Limits, Spec};

use crate::{TENANT, own};

/// A process in a jail, ended when it is dropped.
pub(crate) struct Tenant {
    child: Child,
    pub(crate) guard: Guard,
}

impl Tenant {
    pub(crate) fn start(jail: &Jail, does: &str, memory: u64) -> Tenant {
        let executable = Executable::examine(&own()).expect("it runs here");
        let environment = [(TENANT, does)];
        let limits = Limits { memory, ..Limits::default() };
        let spec =
            Spec { executable: &executable, environment: &environment, zone: None, socket: None, limits };
        let (mut command, guard) = jail.command(&spec).expect("a group can be made");
        let child = command.stdin(Stdio::null()).spawn().expect("it can be started");
        Tenant { child, guard }
    }

    /// The folder of its group of this controller.
    pub(crate) fn group(&self, controller: &str) -> PathBuf {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", self.child.id())).expect("it runs");
        group_of(&groups, controller)
    }
}

/// The folder of a controller's group, of those that a process is in (`/proc/PID/cgroup`).
pub(crate) fn group_of(groups: &str, controller: &str) -> PathBuf {
    let find = |wanted: &str, root: &str| {
        let path = groups.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names.split(',').any(|name| name == wanted).then(|| path.trim_start_matches('/'))
        });
        path.map(|path| Path::new(root).join(path))
    };
    // Version 2 has one group for all controllers, without a name.
    find(controller, &format!("/sys/fs/cgroup/{controller}"))
        .or_else(|| find("", "/sys/fs/cgroup"))
        .expect("control groups")
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.guard.end();
        let _ended = self.child.wait();
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
