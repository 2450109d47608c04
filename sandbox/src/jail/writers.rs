//! Waits until no process has a file open for writing, so that it can be executed.
//!
//! The kernel executes no file that any process has open for writing (`ETXTBSY`). A descriptor that this
//! process has closed may live on: a child that another thread has forked meanwhile holds copies of all
//! descriptors until its exec. On a busy machine that takes milliseconds.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time limit. A forked child reaches its exec long before. On a file system that denies leases (NFS may), a
/// wait costs this time, once per file.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// `include/uapi/asm-generic/fcntl.h` of Linux; libc has it for few targets.
const F_SETSIG: libc::c_int = 10;
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until no other process has the file at `path` open for writing; this one must have closed its
/// writers. Must be called before the file gets the name by which it is executed. Blocks for at most two
/// seconds. If a writer remains, the start fails.
///
/// # Errors
/// If the file can't be opened.
pub fn wait_for_writers(path: &Path) -> io::Result<()> {
    wait_until(path, Instant::now() + TIME_LIMIT)
}

fn wait_until(path: &Path, deadline: Instant) -> io::Result<()> {
    let file = File::open(path)?;
    while is_written(&file) && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Probes for writers by a read lease, which the kernel grants only if there are none, by the same count as
/// `execve`.
fn is_written(file: &File) -> bool {
    let set = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: both commands take a number and touch no memory of this process.
        let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, value) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // A process that opens the file for writing while the lease lasts makes the kernel send a signal. SIGIO,
    // which it sends by default, would end this process; SIGURG is ignored.
    let granted = set(F_SETSIG, libc::SIGURG).and_then(|()| set(libc::F_SETLEASE, libc::F_RDLCK));
    match granted {
        Ok(()) => {
            // If this fails, the lease ends when the descriptor is closed.
            let _ = set(libc::F_SETLEASE, libc::F_UNLCK);
            false
        }
        // Other errors come from file systems without leases, and for files of other users.
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_program_that_a_child_still_has_open_for_writing_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        fs::copy("/bin/true", &program).expect("room on the disk");
        // `cat` simulates a forked child before its exec: it has a copy of the descriptor.
        let writer = OpenOptions::new().append(true).open(&program).expect("it is our own");
        let mut child = Command::new("cat");
        child.stdin(Stdio::piped()).stdout(writer);
        let mut holder = child.spawn().expect("cat is everywhere");
        drop(child);
        assert_eq!(
            Command::new(&program).status().expect_err("it is written").kind(),
            ErrorKind::ExecutableFileBusy
        );
        let waiting = std::thread::spawn({
            let program = program.clone();
            move || {
                wait_until(&program, Instant::now() + Duration::from_secs(60)).expect("it can be opened");
                Command::new(&program).status()
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(holder.stdin.take());
        assert!(waiting.join().expect("no panic").expect("it can be started").success());
        holder.wait().expect("it was started here");
    }
}
