//! What workers print reaches the host's own output line by line, so that two of them never share a line.
//! The supervisor reads the pipes, `queue` calls the relay; a worker's last lines on stderr become part of its death
//! report.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fmt, io};

use log::Level;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;

use crate::model::words::counted;

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
pub trait OutputSink: Send + Sync + fmt::Debug {
    /// One line, its end included. Called on one thread of each pool that does nothing else. (If log records
    /// of a launcher's worker are left out, the line that says so comes from the thread that reads that
    /// worker.)
    ///
    /// A call that waits holds up workers that print, once a megabyte of lines waits and their pipes are
    /// full; the end of a map, for two seconds at most; and the drop of the pool.
    fn line(&self, worker: &str, stream: Stream, line: &[u8]);

    /// One log record of a worker's function. Called on the thread that reads from that worker.
    ///
    /// By default it goes to this process's logger, with the worker's name before the message. A host of
    /// programs that it does not trust has to implement this, or they write into its log whatever they want.
    fn record(&self, worker: &str, record: &LogRecord<'_>) {
        let LogRecord { level, target, message, module_path, file, line } = *record;
        // The macros of `log` compare the level; a record that is handed to the logger directly has not been
        // compared.
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

    /// Writes what the sink has kept back, because the pool or the program ends. Called after the last line,
    /// perhaps more than once.
    fn flush(&self) {}
}

/// Writes lines to the host's stdout and stderr as they are.
#[derive(Debug, Default)]
pub struct StdioSink;

impl OutputSink for StdioSink {
    fn line(&self, _worker: &str, stream: Stream, line: &[u8]) {
        StdioSink::write(stream, line, warn);
    }

    fn flush(&self) {
        StdioSink::count_lost(warn);
    }
}

fn warn(text: &str) {
    // Past std's lock, as the lines themselves. If stderr can't be written, there is no other place for the
    // warning.
    let _unwritten = write_whole(io::stderr().as_fd(), format!("fastmap: warning: {text}\n").as_bytes());
}

impl StdioSink {
    /// Writes a line as [`OutputSink::line`] does. The first line that can't be written is a warning with the
    /// reason.
    pub fn write(stream: Stream, line: &[u8], warn: impl Fn(&str)) {
        let written = match stream {
            Stream::Stdout => write_whole(io::stdout().as_fd(), line),
            Stream::Stderr => write_whole(io::stderr().as_fd(), line),
        };
        // An output that fails does so for each line, so only the first one is a warning. `count_lost` gives
        // the number at the end.
        if let Err(error) = written
            && stream.losses().is_first(error)
        {
            let error = io::Error::from(error);
            warn(&format!("what workers print to {stream} can't be written there, and is lost: {error}"));
        }
    }

    /// Says how many lines could not be written since this was last called, if any.
    pub fn count_lost(warn: impl Fn(&str)) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Set to zero in the same step, because `flush` may be called more than once, and each lost line
            // is to be counted in one warning. Relaxed, because the number guards no other memory.
            let lost = stream.losses().lines.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let (lines, were) = (counted(lost, "line"), if lost == 1 { "was" } else { "were" });
                warn(&format!("{lines} that workers printed to {stream} {were} lost"));
            }
        }
    }
}

/// Lines that could not be written to one output of this process.
struct Losses {
    lines: AtomicU64,
    told: AtomicBool,
}

static LOSSES: [Losses; 2] = [const { Losses { lines: AtomicU64::new(0), told: AtomicBool::new(false) } }; 2];

impl Stream {
    fn losses(self) -> &'static Losses {
        &LOSSES[self as usize]
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

impl Losses {
    /// Counts a line that was lost to this error; true for the first.
    fn is_first(&self, error: Errno) -> bool {
        // The reader has left, or the output was closed: as with `print`, minus the panic.
        if matches!(error, Errno::PIPE | Errno::IO | Errno::BADF) {
            return false;
        }
        // The outputs are the process's, and each pool has a thread that writes to them: the swap lets one of
        // these threads warn. Relaxed, because neither value guards other memory.
        self.lines.fetch_add(1, Ordering::Relaxed);
        !self.told.swap(true, Ordering::Relaxed)
    }
}

/// Writes past std's lock: a program that holds `stdout().lock()` while it maps would stop the thread that
/// looks after the workers. Lines are whole already, and std's own buffer holds no more than a line without
/// its end. Waits for an output that is full, also where it is non-blocking.
fn write_whole(fd: BorrowedFd<'_>, mut line: &[u8]) -> rustix::io::Result<()> {
    while !line.is_empty() {
        match rustix::io::write(fd, line) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            // An error of the output ends this wait, too, and comes with the next attempt.
            Err(Errno::AGAIN) => {
                let _ready = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE);
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
pub(crate) struct Pipe {
    pipe: Option<Arc<OwnedFd>>,
    stream: Stream,
    partial: Vec<u8>,
    /// The begin of the line was left out, so that the rest of it must be as well.
    cut: bool,
    tail: VecDeque<String>,
    /// Bytes that were read from it.
    taken: u64,
}

impl Pipe {
    pub(crate) fn new(pipe: impl Into<OwnedFd>, stream: Stream) -> io::Result<Self> {
        let pipe = pipe.into();
        // One thread reads the pipes of all workers, and must not wait for one of them. The flag belongs to
        // this end alone: the worker's end is another open file, whose writes wait as in any program.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let (partial, tail) = (Vec::new(), VecDeque::new());
        Ok(Pipe { pipe: Some(Arc::new(pipe)), stream, partial, cut: false, tail, taken: 0 })
    }

    /// What to wait on, until the pipe's end.
    pub(crate) fn open(&self) -> Option<&Arc<OwnedFd>> {
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

    /// How many bytes will have been read from it when all that is in it now is read.
    pub(crate) fn written(&self) -> u64 {
        // Where the kernel does not give the number, the end of a map does not wait for this pipe.
        let unread = self.pipe.as_ref().and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok());
        self.taken + unread.unwrap_or(0)
    }

    /// Whether at least `bytes` were read since its begin, or the pipe has ended.
    pub(crate) fn has_taken(&self, bytes: u64) -> bool {
        self.taken >= bytes || self.pipe.is_none()
    }

    /// Whether it holds a line without an end.
    pub(crate) fn holds_some(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Passes on a line without an end as if it had one.
    pub(crate) fn end_line(&mut self, out: &mut dyn FnMut(Stream, Vec<u8>)) {
        if !self.partial.is_empty() {
            self.partial.push(b'\n');
            self.emit(out);
        }
    }

    /// Passes on what is there now as lines, at most about `most` bytes, so that a worker that prints much
    /// can't hold up the rest. Returns how many bytes there were.
    pub(crate) fn pass_on(&mut self, most: usize, out: &mut dyn FnMut(Stream, Vec<u8>)) -> usize {
        self.read(most, &mut |pipe, bytes| pipe.split(bytes, out))
    }

    /// Leaves out what is there now, at most about `most` bytes. Returns how many bytes and lines that were.
    pub(crate) fn leave_out(&mut self, most: usize) -> (usize, u64) {
        let mut lines = 0;
        let bytes = self.read(most, &mut |pipe, bytes| {
            lines += bytes.split(|byte| *byte == b'\n').skip(1).count() as u64;
            // The begin of this line is dropped with the rest of what was read: `cut` keeps `split` from
            // passing on its end as a line of its own.
            pipe.partial.clear();
            pipe.cut = bytes.last() != Some(&b'\n');
            if pipe.stream == Stream::Stderr {
                // Only the end of each read is looked at, because a flood is to cost the host little; a
                // character takes up to 4 bytes.
                let last = &bytes[bytes.len().saturating_sub(4 * TAIL_CHARS)..];
                last.split(|byte| *byte == b'\n').for_each(|line| pipe.remember(line));
            }
        });
        (bytes, lines)
    }

    /// Reads what is there now, at most about `most` bytes. Returns how many there were.
    fn read(&mut self, most: usize, take: &mut dyn FnMut(&mut Pipe, &[u8])) -> usize {
        let mut buffer = [0; 16 * 1024];
        let mut taken = 0;
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut buffer[..]) {
                // At the end and after an error the pipe is not polled any more: `poll` would report it at
                // each call, and the supervisor would never sleep.
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    take(self, &buffer[..read]);
                    self.taken += read as u64;
                    taken += read;
                    if taken >= most {
                        return taken;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return taken,
                Err(_) => self.pipe = None,
            }
        }
        taken
    }

    fn split(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(Stream, Vec<u8>)) {
        if self.cut {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
            bytes = &bytes[end + 1..];
            self.cut = false;
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
            self.emit(out);
        }
        self.partial.extend_from_slice(bytes);
        // A worker that never ends its line must not fill the host's memory. Looked at once for each read, so
        // that a part is longer than this by one read (16 KiB) at most.
        if self.partial.len() >= LINE {
            self.partial.push(b'\n');
            self.emit(out);
        }
    }

    fn emit(&mut self, out: &mut dyn FnMut(Stream, Vec<u8>)) {
        let line = std::mem::take(&mut self.partial);
        // A death report holds lines of stderr alone.
        if self.stream == Stream::Stderr {
            self.remember(&line);
        }
        out(self.stream, line);
    }

    /// Keeps the begin of a line for a death report.
    fn remember(&mut self, line: &[u8]) {
        let line: String = String::from_utf8_lossy(line).trim().chars().take(TAIL_CHARS).collect();
        if !line.is_empty() && !is_of_a_backtrace(&line) {
            self.tail.push_back(line);
        }
        if self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
    }

    /// The worker is dead: passes on the rest, also a last line without an end, and gives the last lines.
    pub(crate) fn finish(mut self, out: &mut dyn FnMut(Stream, Vec<u8>)) -> Vec<String> {
        // A child of the worker may hold the pipe open and write on: what is taken is bounded.
        self.pass_on(1 << 20, out);
        self.end_line(out);
        self.tail.into()
    }
}

/// Whether a line is part of Rust's backtrace: with `RUST_BACKTRACE=1` it is longer than a death report, and would push
/// out the message before it.
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
