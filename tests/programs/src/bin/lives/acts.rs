//! What is done to a running program.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use fastmap_test_programs::{children, command_line, is_alive, state, workers};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::play::Play;
use crate::way::{Act, Whom};

/// Time for which a program stands still.
const WHILE: Duration = Duration::from_millis(500);
/// Time for which nothing of what it writes is taken. More than the `item_timeout` of those ways.
const LONG: Duration = Duration::from_secs(5);

impl Play<'_> {
    /// # Errors
    /// If the program can't be acted upon, because it has ended.
    pub(crate) fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Signal(whom, signal) => self.signal(whom, signal),
            Act::Pause(whom) => {
                let pid = self.one(whom)?;
                self.signal(whom, Signal::SIGSTOP)?;
                self.until("stopped", |_| !is_alive(pid) || state(pid) == Some('T'))?;
                sleep(WHILE);
                match whom {
                    Whom::Group => self.signal(whom, Signal::SIGCONT),
                    Whom::Host | Whom::Worker => send(pid, Signal::SIGCONT),
                }
            }
            Act::Freeze => {
                let group = self.group.as_ref().ok_or("no control group")?;
                group.freeze(true)?;
                sleep(WHILE);
                group.freeze(false)
            }
            Act::CtrlZ => {
                let pid = self.one(Whom::Host)?;
                self.types("\x1a")?;
                self.until("stopped", |_| !is_alive(pid) || state(pid) == Some('T'))?;
                sleep(WHILE);
                self.types("go")
            }
            Act::CtrlS => {
                self.types("\x13")?;
                sleep(LONG);
                self.types("\x11")
            }
            // The program that keeps the terminal is killed, and is waited for by what comes next.
            Act::Close => send(self.running.pid(), Signal::SIGKILL),
        }
    }

    fn types(&mut self, keys: &str) -> Result<(), String> {
        if self.running.has_ended() {
            return Err("the program ended before its time".to_owned());
        }
        self.running.say(keys);
        Ok(())
    }

    fn signal(&self, whom: Whom, signal: Signal) -> Result<(), String> {
        match whom {
            Whom::Group => {
                killpg(Pid::from_raw(self.running.pid()), signal).map_err(|error| error.to_string())
            }
            Whom::Host | Whom::Worker => send(self.one(whom)?, signal),
        }
    }

    /// A process of them.
    fn one(&self, whom: Whom) -> Result<i32, String> {
        let host = self.host().ok_or("the program has not begun")?;
        match whom {
            Whom::Host | Whom::Group => Ok(host),
            Whom::Worker => {
                let of_service = self.service().map_or(Vec::new(), descending_workers);
                workers(host).into_iter().chain(of_service).next().ok_or("no worker".to_owned())
            }
        }
    }
}

fn send(pid: i32, signal: Signal) -> Result<(), String> {
    kill(Pid::from_raw(pid), signal).map_err(|error| format!("{signal} to {pid}: {error}"))
}

/// The workers below a service. Processes of their jails are between it and them, and a worker's program is
/// `/app/worker` there.
fn descending_workers(service: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for child in children(service) {
        let is_worker = is_alive(child) && command_line(child).starts_with("/app/worker");
        found.extend(is_worker.then_some(child));
        found.extend(descending_workers(child));
    }
    found
}

/// A control group for a freezer, which is removed at the end of its run.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) folder: PathBuf,
}

impl Group {
    /// `None`: this machine has no freezer, or not for this user.
    pub(crate) fn new() -> Option<Group> {
        let name = format!("fastmap-lives-{}", std::process::id());
        // Version 2 of control groups, or the hierarchy of version 1 that has the freezer.
        ["/sys/fs/cgroup", "/sys/fs/cgroup/freezer"].iter().find_map(|root| {
            let folder = Path::new(root).join(&name);
            fs::create_dir(&folder).ok()?;
            let group = Group { folder };
            (group.folder.join("cgroup.freeze").exists() || group.folder.join("freezer.state").exists())
                .then_some(group)
        })
    }

    fn freeze(&self, freeze: bool) -> Result<(), String> {
        let version_2 = self.folder.join("cgroup.freeze");
        let (file, word) = match (version_2.exists(), freeze) {
            (true, true) => (version_2, "1"),
            (true, false) => (version_2, "0"),
            (false, true) => (self.folder.join("freezer.state"), "FROZEN"),
            (false, false) => (self.folder.join("freezer.state"), "THAWED"),
        };
        // A file that is not there is not made: it would keep a folder that is no group from being removed.
        let written =
            OpenOptions::new().write(true).open(&file).and_then(|mut file| file.write_all(word.as_bytes()));
        written.map_err(|error| format!("{}: {error}", file.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is frozen could not be ended.
        let _is_not_frozen = self.freeze(false);
        let _is_in_use = fs::remove_dir(&self.folder);
    }
}
