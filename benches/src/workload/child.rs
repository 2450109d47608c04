//! Child processes of the harness, as the workload that starts one sees them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{io, thread};

/// The first argument of a child process; the second names what it does, the third the contestant.
pub(crate) const CHILD: &str = "child-of-the-harness";

/// Starts a child process; its stdout is a pipe.
pub(crate) fn spawn(words: &[&str]) -> Child {
    Command::new("/proc/self/exe")
        .arg(CHILD)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this executable can be started")
}

/// The next line that a child writes, if it comes in time. Its descendants may hold the pipe open for longer than it
/// lives; the thread that reads then stays until they close it.
pub(crate) fn line(child: &mut Child, limit: Duration) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read: io::Result<usize> = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(read.ok().filter(|read| *read > 0).map(|_| line.trim().to_owned()));
    });
    receive.recv_timeout(limit).ok().flatten()
}
