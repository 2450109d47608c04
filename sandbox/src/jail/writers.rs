//! Wait until no process has a file open for writing, so that it can be started.
//!
//! The kernel starts no program that is open for writing anywhere (`ETXTBSY`). A descriptor that this process has
//! closed may live on: another thread has started a child meanwhile, which holds copies of all descriptors until it
//! has become its program. On a busy machine that takes milliseconds.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// A child becomes its program long before. A file system that keeps no such leases (NFS may answer that way) costs
/// this time at most, once for a file.
const LIMIT: Duration = Duration::from_secs(2);
/// `include/uapi/asm-generic/fcntl.h` of Linux; libc has it for few targets.
const F_SETSIG: libc::c_int = 10;
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until the file at `path`, whose writers are closed in this process, is open for writing in no other. To be
/// called before the file gets the name by which it is started. Blocks for two seconds at most; what then still
/// writes is left to fail at the start.
///
/// # Errors
/// If the file can't be opened.
pub fn wait_for_writers(path: &Path) -> io::Result<()> {
    wait_until(path, Instant::now() + LIMIT)
}

fn wait_until(path: &Path, deadline: Instant) -> io::Result<()> {
    let file = File::open(path)?;
    while is_written(&file) && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// The kernel grants a lease for reading only where there are no writers, which it counts as `execve` does.
fn is_written(file: &File) -> bool {
    let set = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: both commands take a number and touch no memory of this process.
        let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, value) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // A process that opens the file for writing while the lease lasts makes the kernel send a signal. SIGIO, which it
    // sends by default, would end this process; SIGURG is ignored.
    let granted = set(F_SETSIG, libc::SIGURG).and_then(|()| set(libc::F_SETLEASE, libc::F_RDLCK));
    match granted {
        Ok(()) => {
            // The lease would end with the descriptor at the latest.
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
        // It stands for a child that has not become its program yet: it has the descriptor.
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
