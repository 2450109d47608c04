//! What workers print reaches the host's own output line by line, so that two of them never share a line.
//! The supervisor reads the pipes, `lines` calls the relay; a worker's last lines on stderr become part of its death
//! report.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use log::Level;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};

/// Which of a worker's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A record that a worker's function has logged.
#[derive(Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// Its level.
    pub level: Level,
    /// Its target: the module, where the function names no other.
    pub target: &'a str,
    /// What it says.
    pub message: &'a str,
    /// The module that it comes from.
    pub module_path: Option<&'a str>,
    /// The source file.
    pub file: Option<&'a str>,
    /// The line there.
    pub line: Option<u32>,
}

/// Where the lines go that workers print, and the records that they log. The default writes them to the
/// host's own stdout and stderr.
pub trait Relay: Send + Sync + fmt::Debug {
    /// One line, its end included. Called from a thread that does nothing else, one for each pool: to wait here is to
    /// make workers wait that print, once a megabyte waits and their pipes are full, and the drop of the pool.
    fn line(&self, worker: &str, stream: Stream, line: &[u8]);

    /// One log record. Goes to this process's logger, with the worker's name before the message, where this
    /// is not implemented: a host of strangers' programs has to, or they write to its log whatever they want.
    /// Called from a worker's own thread.
    fn record(&self, worker: &str, record: &LogRecord<'_>) {
        let LogRecord { level, target, message, module_path, file, line } = *record;
        if level > log::max_level() {
            return;
        }
        log::logger().log(
            &log::Record::builder()
                .level(level)
                .target(target)
                .module_path(module_path)
                .file(file)
                .line(line)
                .args(format_args!("[{worker}] {message}"))
                .build(),
        );
    }
}

/// Writes lines to the host's stdout and stderr as they are.
#[derive(Debug, Default)]
pub struct PassThrough;

impl Relay for PassThrough {
    fn line(&self, _worker: &str, stream: Stream, line: &[u8]) {
        // A host whose own output is closed has nobody to tell: as with `print` to a closed pipe, minus the panic.
        let _closed = match stream {
            Stream::Stdout => write_whole(io::stdout().as_fd(), line),
            Stream::Stderr => write_whole(io::stderr().as_fd(), line),
        };
    }
}

/// Writes past std's lock: a program that holds `stdout().lock()` while it maps would stop the thread that looks after
/// the workers. Lines are whole already, and std's own buffer holds no more than a line without its end.
fn write_whole(fd: BorrowedFd<'_>, mut line: &[u8]) -> rustix::io::Result<()> {
    while !line.is_empty() {
        match rustix::io::write(fd, line) {
            Ok(written) => line = &line[written..],
            Err(rustix::io::Errno::INTR) => {}
            // Somebody has made the output non-blocking: wait for room, but not for ever.
            Err(rustix::io::Errno::AGAIN) => {
                let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], 1000u16);
                if !ready.is_ok_and(|ready| ready > 0) {
                    return Err(rustix::io::Errno::AGAIN);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A longer line is passed on in parts.
const LINE: usize = 64 * 1024;
/// What a death report holds.
const TAIL_LINES: usize = 8;
const TAIL_CHARS: usize = 400;

/// One pipe of one worker.
#[derive(Debug)]
pub(crate) struct Pipe<R> {
    pipe: Option<R>,
    stream: Stream,
    partial: Vec<u8>,
    tail: VecDeque<String>,
}

impl<R: Read + AsFd> Pipe<R> {
    pub(crate) fn new(pipe: R, stream: Stream) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Pipe { pipe: Some(pipe), stream, partial: Vec::new(), tail: VecDeque::new() })
    }

    /// What to wait on, until the pipe's end.
    pub(crate) fn open(&self) -> Option<&R> {
        self.pipe.as_ref()
    }

    /// Whether a write to it may have to wait until it is read. A pipe counts in pages: at worst each holds a
    /// little more than half of what it could.
    pub(crate) fn may_be_full(&self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let Ok(room) = fcntl(pipe, FcntlArg::F_GETPIPE_SZ) else { return false };
        let room = u64::try_from(room).unwrap_or_default();
        rustix::io::ioctl_fionread(pipe).is_ok_and(|held| held > 0 && held >= room / 2)
    }

    /// Passes on what is there now as lines, at most about `most` bytes, so that one chatterer can't hold up the rest;
    /// tells how many there were.
    pub(crate) fn pass_on(&mut self, most: usize, out: &mut dyn FnMut(Stream, Vec<u8>)) -> usize {
        let mut buffer = [0; 16 * 1024];
        let mut taken = 0;
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    self.split(&buffer[..read], out);
                    taken += read;
                    if taken >= most {
                        return taken;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return taken,
                Err(_) => self.pipe = None,
            }
        }
        taken
    }

    fn split(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(Stream, Vec<u8>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
            self.emit(out);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LINE {
            self.partial.push(b'\n');
            self.emit(out);
        }
    }

    fn emit(&mut self, out: &mut dyn FnMut(Stream, Vec<u8>)) {
        if self.stream == Stream::Stderr {
            let line: String =
                String::from_utf8_lossy(&self.partial).trim().chars().take(TAIL_CHARS).collect();
            if !line.is_empty() && !is_of_a_backtrace(&line) {
                self.tail.push_back(line);
            }
            if self.tail.len() > TAIL_LINES {
                self.tail.pop_front();
            }
        }
        out(self.stream, std::mem::take(&mut self.partial));
    }

    /// The worker is dead: passes on the rest, also a last line without an end, and gives the last lines.
    pub(crate) fn finish(mut self, out: &mut dyn FnMut(Stream, Vec<u8>)) -> Vec<String> {
        // A child of the worker may hold the pipe open and write on: what is taken is bounded.
        self.pass_on(1 << 20, out);
        if !self.partial.is_empty() {
            self.partial.push(b'\n');
            self.emit(out);
        }
        self.tail.into()
    }
}

/// Whether a line is part of Rust's backtrace: with `RUST_BACKTRACE=1` it is longer than a death report, and would push
/// out the message that stands before it.
fn is_of_a_backtrace(line: &str) -> bool {
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let frame = number.len() < line.len() && number.starts_with(": ");
    frame || line == "stack backtrace:" || line.starts_with("at ") || line.starts_with("note: ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_arrive_whole_however_they_were_written() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let mut pipe = Pipe::new(reader, Stream::Stderr).expect("a pipe can be made non-blocking");
        let mut lines = Vec::new();
        let mut keep = |_: Stream, line: Vec<u8>| lines.push(String::from_utf8_lossy(&line).into_owned());
        for part in ["one", " line\ntwo\n", "three"] {
            writer.write_all(part.as_bytes()).expect("room in the pipe");
            pipe.pass_on(usize::MAX, &mut keep);
        }
        drop(writer);
        assert_eq!(pipe.finish(&mut keep), ["one line", "two", "three"]);
        assert_eq!(lines, ["one line\n", "two\n", "three\n"]);
    }

    #[test]
    fn a_backtrace_does_not_push_out_the_message_before_it() {
        let words = ["thread 'main' panicked at src/main.rs:4:5:", "out of cheese", "12 : nor this"];
        assert!(words.iter().all(|line| !is_of_a_backtrace(line)));
        let frames = [
            "stack backtrace:",
            "0: __rustc::rust_begin_unwind",
            "at ./src/main.rs:4:5",
            "note: Some details",
        ];
        assert!(frames.iter().all(|line| is_of_a_backtrace(line)));
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_parts() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let mut pipe = Pipe::new(reader, Stream::Stdout).expect("a pipe can be made non-blocking");
        let mut parts = 0;
        for _ in 0..40 {
            writer.write_all(&[b'x'; 4096]).expect("room in the pipe");
            pipe.pass_on(usize::MAX, &mut |_, _| parts += 1);
        }
        assert!(pipe.partial.len() < LINE);
        assert_eq!(parts, 2);
    }
}
