//! A terminal of its own for a program: what it shows, and what is typed there. And none at all.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use fastmap_test_programs::LIMIT;
use nix::pty::{OpenptyResult, openpty};

/// A program at a terminal, which ends with the test.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keys: File,
    shown: Receiver<Vec<u8>>,
    screen: String,
}

impl Terminal {
    /// Starts a program whose stdin, stdout, stderr and controlling terminal are a new one.
    pub fn start(command: &mut Command) -> Terminal {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
        let copy = || Stdio::from(slave.try_clone().expect("a descriptor"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: between fork and exec it calls the kernel alone, by functions that are safe to call there.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // The terminal is the session's from here on, as a login's is.
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The command holds the terminal as well, and it is the caller's.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(slave);
        let keys = File::from(master);
        let mut screen = keys.try_clone().expect("a descriptor");
        let (send, shown) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is how a terminal tells that the last program at it has gone.
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, keys, shown, screen: String::new() }
    }

    /// Waits until that text is on the screen.
    pub fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.screen.contains(text) {
            match self.shown.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen += &String::from_utf8_lossy(&bytes),
                Err(why) => panic!("no {text:?} ({why}), but:\n{}", self.screen),
            }
        }
    }

    /// All that it has shown so far.
    pub fn screen(&self) -> &str {
        &self.screen
    }

    /// Types a line.
    pub fn types(&mut self, line: &str) {
        writeln!(self.keys, "{line}").expect("the terminal is open");
    }

    /// Waits for the program's end: how it ended, and all that was on the screen.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.shown.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the program does not end:\n{}", self.screen),
            }
        }
        let status = self.child.wait().expect("it is a child");
        (status, std::mem::take(&mut self.screen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
    }
}

/// The program has no terminal, wherever the test runs.
pub fn without_terminal(command: &mut Command) -> &mut Command {
    // SAFETY: as above.
    unsafe {
        command.pre_exec(|| {
            let terminal = libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if terminal >= 0 {
                nix::errno::Errno::result(libc::ioctl(terminal, libc::TIOCNOTTY))?;
            }
            Ok(())
        })
    }
}
