//! A question on the terminal, until it is answered or its answer is no longer needed. Asked by `cloud`; `console`
//! keeps bars and lines away meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::Duration;

use crate::report::console::Hold;

const TERMINAL: &str = "/dev/tty";
/// How often it is looked whether the answer is still wanted: an exit waits for that.
const LOOK: Duration = Duration::from_millis(50);
/// What is longer is no answer.
const LONGEST: usize = 4096;

/// Asks a question on the terminal, with the bars out of the way until it is answered: the line that came, without its
/// end. `None` where there is no terminal, or nobody at it, or the answer is not `wanted` any more, which the terminal
/// then says. Maps go on meanwhile.
///
/// The terminal is that of the process, whatever stdin and stderr are; where it has none, stdin and stderr, if
/// both are one.
pub(crate) fn ask(question: &str, wanted: &dyn Fn() -> bool) -> Option<String> {
    let (mut output, input) = terminal()?;
    let _alone = alone(wanted)?;
    let _hold = Hold::begin();
    output.write_all(format!("{question} ").as_bytes()).ok()?;
    let answer = read_line(&input, wanted);
    if answer.is_none() {
        // The cursor still stands behind the question.
        let why = if wanted() { "" } else { "(the question is no longer needed: its map is over)" };
        let _closed = output.write_all(format!("{why}\n").as_bytes());
    }
    answer
}

/// Where a question is written, and where its answer comes from.
fn terminal() -> Option<(File, File)> {
    let output = OpenOptions::new().write(true).open(TERMINAL);
    // Another reader may take the line that was announced: to read must not wait for the next one.
    let input = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(TERMINAL);
    if let (Ok(output), Ok(input)) = (output, input) {
        return Some((output, input));
    }
    let (stdin, stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return None;
    }
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).ok();
    Some((copy(stderr.as_fd())?, copy(stdin.as_fd())?))
}

/// One question at a time. `None`: while others stood, the answer ceased to be wanted.
fn alone(wanted: &dyn Fn() -> bool) -> Option<MutexGuard<'static, ()>> {
    static ASKING: Mutex<()> = Mutex::new(());
    while wanted() {
        match ASKING.try_lock() {
            Ok(alone) => return Some(alone),
            Err(TryLockError::Poisoned(alone)) => return Some(alone.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(LOOK),
        }
    }
    None
}

/// The line that is typed. `None`: the terminal is gone, nobody is at it, or the line is not wanted any more.
fn read_line(mut input: &File, wanted: &dyn Fn() -> bool) -> Option<String> {
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while wanted() && line.len() < LONGEST {
        if !is_readable(input)? {
            continue;
        }
        match input.read(&mut buffer) {
            Ok(0) if line.is_empty() => return None,
            Ok(read) => {
                line.extend_from_slice(&buffer[..read]);
                let end = line.iter().position(|byte| *byte == b'\n');
                if end.is_some() || read == 0 {
                    line.truncate(end.unwrap_or(line.len()));
                    return Some(String::from_utf8_lossy(&line).trim().to_owned());
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => return None,
        }
    }
    None
}

/// Waits a moment for something to read, or for the terminal's end. `None`: it can't be waited for.
fn is_readable(input: &File) -> Option<bool> {
    let mut awaited = libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the one structure is there until the call is over, and the file is open as long.
    let ready = unsafe { libc::poll(&raw mut awaited, 1, LOOK.as_millis() as libc::c_int) };
    match ready {
        -1 => (io::Error::last_os_error().kind() == ErrorKind::Interrupted).then_some(false),
        ready => Some(ready > 0),
    }
}
