//! Processes that a worker's function has started and left behind: they end with the worker. They are found
//! by their environment, which they inherit, whatever their parent is by then: it names the socket at
//! which the worker connected. (Parents do not lead there: what a dead process has started belongs to init.
//! Process groups and sessions belong to the terminal and to the function. Control groups are for those who
//! may make some.) Called by the host for a worker that is dead (`reader`), and by a worker that leaves
//! (`worker`).

use std::collections::HashSet;
use std::fs;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::local::ipc::handshake::{INSIDE, MARKER};

/// Rounds in which something new may be found: what is ended may have started more meanwhile.
const ROUNDS: u32 = 50;
/// A process that is being replaced by another program has no environment for less than that.
const REPLACED: Duration = Duration::from_millis(1);

/// The socket of this process, if it is a worker whose function may start processes.
static OWN: OnceLock<String> = OnceLock::new();

/// Worker: from now on [`end_own`] ends what is started here.
pub(crate) fn keep(server: &str) {
    let _set_before = OWN.set(server.to_owned());
}

/// Worker: whether [`keep`] was called.
pub(crate) fn are_kept() -> bool {
    OWN.get().is_some()
}

/// What [`INSIDE`] says in a worker and in what it starts: its name, which is for people, and its socket.
pub(crate) fn inherited(name: &str, server: &str) -> String {
    format!("{name} {server}")
}

/// Worker: ends what the function has started and left behind.
pub(crate) fn end_own() {
    // Without a child there is nothing to find: the worker is spared the search of all processes.
    if let Some(server) = OWN.get().filter(|_| has_had_children()) {
        end(server);
    }
}

/// Whether this process has, or has waited for, a child of its own.
fn has_had_children() -> bool {
    let now = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
    // No process runs without taking memory.
    now != Err(Errno::ECHILD)
        || getrusage(UsageWho::RUSAGE_CHILDREN).map_or(true, |usage| usage.minor_page_faults() > 0)
}

/// Ends all processes that come from the worker with that socket, but the calling one.
pub(crate) fn end(server: &str) {
    let mut ended = HashSet::from([std::process::id()]);
    for _ in 0..ROUNDS {
        let mut news = false;
        for pid in processes() {
            if ended.contains(&pid) {
                continue;
            }
            match is_from(pid, server) {
                Some(false) => {}
                Some(true) => {
                    // Tried once, whatever comes of it: a process that can't be killed would be news in each
                    // round.
                    ended.insert(pid);
                    news |= end_one(pid, server);
                }
                None => {
                    sleep(REPLACED);
                    // Looked at again in the next round, when its new program has an environment.
                    news = true;
                }
            }
        }
        if !news {
            return;
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a process comes from the worker with that socket; `None` if that can't be seen at this moment.
fn is_from(pid: u32, server: &str) -> Option<bool> {
    // Another user's can't be read, nor ended.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return Some(false) };
    if environment.is_empty() {
        // The kernel's own threads and processes that have ended have no program, either.
        return if fs::read_link(format!("/proc/{pid}/exe")).is_ok() { None } else { Some(false) };
    }
    Some(environment.split(|byte| *byte == 0).any(|entry| names(entry, server)))
}

/// Whether a variable is that of a worker with that socket (in a fork of it), or of what it has started.
fn names(entry: &[u8], server: &str) -> bool {
    let value = [MARKER, INSIDE].iter().find_map(|name| {
        let value = entry.strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    });
    value.and_then(|value| value.strip_suffix(server.as_bytes())).is_some_and(|rest| rest.ends_with(b" "))
}

/// Whether the process was still there.
fn end_one(pid: u32, server: &str) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // Asked for twice: the process was there under that number before, and another may be by now.
    let is_still = || is_from(pid.as_raw_nonzero().get().cast_unsigned(), server) == Some(true);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => is_still() && pidfd_send_signal(process, Signal::KILL).is_ok(),
        Err(rustix::io::Errno::SRCH) => false,
        // Refused or unknown, see `death_of` in `spawn`.
        Err(_) => is_still() && kill_process(pid, Signal::KILL).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_what_carries_the_socket_is_ended() {
        let start = |name: &str, value: &str| {
            let mut command = Command::new("sleep");
            command.arg("1000").stdout(Stdio::null()).env(name, value).spawn().expect("a process that waits")
        };
        let own = inherited("worker-1", "/tmp/.tmpOwn/socket");
        let mut theirs = [
            start(INSIDE, &inherited("worker-1", "/tmp/.tmpOther/socket")),
            start(INSIDE, "worker-1"),
            start("OTHER", &own),
        ];
        let mut ours = [start(INSIDE, &own), start(MARKER, "23 1 worker-1 off open /tmp/.tmpOwn/socket")];
        end("/tmp/.tmpOwn/socket");
        for child in &mut ours {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(child.wait().expect("a child").signal(), Some(libc::SIGKILL));
        }
        for child in &mut theirs {
            assert_eq!(child.try_wait().expect("a child"), None);
            child.kill().expect("it runs");
            child.wait().expect("a child");
        }
    }
}
