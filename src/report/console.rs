//! The terminal, shared by bars, closing lines and what workers print, so that no line is broken.
//! Everything that fastmap writes to stderr, and all that it relays, goes through here; by [`stderr`] and
//! [`suspend_progress`] a program's own output does as well.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, TryLockError};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use console::Term;
use fastmap_backends::local::{OutputSink, StdioSink, Stream};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// The terminal is gone: nothing is drawn any more.
static GONE: AtomicBool = AtomicBool::new(false);
/// The process was stopped and goes on (Ctrl-Z and `fg`): the shell has written below the bars.
static CONTINUED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// What stands between the bars and the terminal. Who draws, or writes a line between bars, holds it for as long as
/// that takes, and nobody else does: neither a program that has the bars out of its way nor a question stops a map.
static SCREEN: Mutex<Screen> = Mutex::new(Screen { holds: 0, waiting: Vec::new(), bytes: 0 });

struct Screen {
    /// How many keep the bars away: questions that stand, and programs that print.
    holds: usize,
    /// Lines that came meanwhile.
    waiting: Vec<(Stream, Vec<u8>)>,
    bytes: usize,
}

/// Bytes of lines that wait; further ones are written in between.
const WAITING: usize = 1 << 20;
/// At the end of a program, another thread's drawing is waited for no longer.
const DRAWN: Duration = Duration::from_millis(500);

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock_unpoisoned()
}

thread_local! {
    /// This thread has the bars out of the way: what it writes does not wait, and it need not ask again.
    static SUSPENDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether stderr is a terminal on which a line can be drawn again.
pub(crate) fn is_drawn() -> bool {
    static DRAWN: LazyLock<bool> = LazyLock::new(|| {
        let moves = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        moves && io::stderr().is_terminal()
    });
    *DRAWN && !GONE.load(Ordering::Relaxed)
}

/// While it lives no bar is drawn, and lines wait. It holds no lock: maps go on and end, in whichever thread.
pub(super) struct Hold;

impl Hold {
    pub(super) fn begin() -> Self {
        // Behind a bar that is just being drawn.
        let mut screen = screen();
        screen.holds += 1;
        if screen.holds == 1 && is_drawn() {
            quietly(|| {
                let _closed = BARS.clear();
                // A bar that is taken away would have the others drawn.
                BARS.set_draw_target(ProgressDrawTarget::hidden());
            });
        }
        Hold
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut screen = screen();
        screen.holds -= 1;
        if screen.holds > 0 {
            return;
        }
        // Before anybody else writes, lest a later line of the same worker comes first.
        screen.bytes = 0;
        for (stream, line) in std::mem::take(&mut screen.waiting) {
            write(stream, &line);
        }
        if is_drawn() {
            // It begins anew, below whatever was written.
            CONTINUED.store(false, Ordering::Relaxed);
            quietly(|| {
                BARS.set_draw_target(ProgressDrawTarget::stderr());
                // The one way to have all drawn at once.
                BARS.suspend(|| ());
            });
        }
    }
}

/// Writes with the bars out of the way. What `write` does is short, calls nothing of the program's, and may be done
/// again if it panics.
fn between_bars<R>(screen: MutexGuard<'_, Screen>, write: impl Fn() -> R) -> R {
    if screen.holds > 0 || !is_drawn() {
        // Nobody is to wait for who waits for a full pipe.
        drop(screen);
        return write();
    }
    let mut written = None;
    quietly(|| BARS.suspend(|| written = Some(write())));
    written.unwrap_or_else(write)
}

/// Writes a line with the bars out of the way: at once, or when nothing keeps them away any more.
fn in_turn(stream: Stream, line: &[u8]) {
    let mut screen = screen();
    if screen.holds > 0 && !SUSPENDED.get() && screen.bytes < WAITING {
        screen.bytes += line.len();
        screen.waiting.push((stream, line.to_owned()));
        return;
    }
    between_bars(screen, || write(stream, line));
}

/// Writes past std's lock, which a program may hold while it maps. A closed stderr is no reason to stop.
fn write(stream: Stream, line: &[u8]) {
    StdioSink::write(stream, line, warn_unwritten);
}

/// Of lines that can't be written. On stderr as it is: a line between bars may be what could not be written.
fn warn_unwritten(text: &str) {
    StdioSink::write(Stream::Stderr, format!("fastmap: warning: {text}\n").as_bytes(), |_| ());
}

/// Writes a line to stderr.
pub(crate) fn line(text: &str) {
    in_turn(Stream::Stderr, format!("{text}\n").as_bytes());
}

/// Writes a warning to stderr, at any verbosity.
pub(crate) fn warn(text: &str) {
    line(&format!("fastmap: warning: {text}"));
}

/// Writes a notice to stderr; the verbosity is the caller's to look at.
pub(crate) fn notice(text: &str) {
    line(&format!("fastmap: {text}"));
}

/// A terminal that was closed makes the library panic: nothing is drawn from then on.
fn quietly(draw: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(draw)).is_err() {
        GONE.store(true, Ordering::Relaxed);
    }
}

/// Draws the line of a map: `compose` is told the columns there are. The first time it is put below the others.
pub(crate) fn draw(bar: &mut Option<ProgressBar>, compose: impl FnOnce(usize) -> String) {
    // Before the lock: it may log, and a logger may well print between the bars.
    watch_stops();
    let screen = screen();
    if screen.holds > 0 {
        return;
    }
    quietly(|| {
        let bar = bar.get_or_insert_with(|| {
            // Hidden until it is among the others: what it drew before would stay on the screen.
            let bar = BARS.add(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
            bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is right"));
            bar
        });
        if CONTINUED.swap(false, Ordering::Relaxed) {
            // It would go up and wipe away what the shell wrote: begin anew, below that.
            BARS.set_draw_target(ProgressDrawTarget::stderr());
        }
        // The last column stays free, for what the terminal itself writes there (^C).
        let columns = usize::from(Term::stderr().size().1).saturating_sub(1);
        bar.set_message(compose(columns));
    });
}

/// The bar of an upload. There is one at a time: what is uploaded is uploaded once for all maps.
static UPLOAD: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Draws the bar of an upload, of which so many bytes are there.
#[cfg(feature = "cloud")]
pub(crate) fn draw_upload(what: &str, sent: u64, total: u64) {
    if sent >= total {
        return remove_upload();
    }
    if !is_drawn() {
        return;
    }
    let mut bar = UPLOAD.lock_unpoisoned();
    draw(&mut bar, |columns| crate::report::bar::upload(what, sent, total, columns));
}

/// Takes the bar of an upload away, if there is one: it is through, or its map is over without it.
pub(crate) fn remove_upload() {
    let bar = UPLOAD.lock_unpoisoned().take();
    if let Some(bar) = bar {
        remove(&bar);
    }
}

/// Takes a bar away.
pub(crate) fn remove(bar: &ProgressBar) {
    // The others are drawn by it.
    let _screen = screen();
    quietly(|| {
        bar.finish_and_clear();
        BARS.remove(bar);
    });
}

/// Has the kernel tell when the process goes on after a stop. It goes on whether or not anybody is told.
fn watch_stops() {
    static WATCHED: LazyLock<()> = LazyLock::new(|| {
        if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGCONT, Arc::clone(&CONTINUED))
        {
            log::debug!("bars may wipe away a line after Ctrl-Z: {error}");
        }
    });
    *WATCHED;
}

/// Passes on what workers print, between the bars.
#[derive(Debug)]
pub(crate) struct Console;

impl OutputSink for Console {
    fn line(&self, _worker: &str, stream: Stream, line: &[u8]) {
        static STDOUT_SHOWN: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
        // What goes to a file or a pipe breaks no bar.
        if stream == Stream::Stdout && !*STDOUT_SHOWN {
            write(stream, line);
            return;
        }
        in_turn(stream, line);
    }

    fn flush(&self) {
        // A program may end while it has the bars out of the way, and while another thread draws.
        let begun = Instant::now();
        let screen = loop {
            match SCREEN.try_lock() {
                Ok(screen) => break Some(screen),
                Err(TryLockError::Poisoned(screen)) => break Some(screen.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() < DRAWN => yield_now(),
                Err(TryLockError::WouldBlock) => break None,
            }
        };
        let waiting = screen.map(|mut screen| {
            screen.bytes = 0;
            std::mem::take(&mut screen.waiting)
        });
        for (stream, line) in waiting.unwrap_or_default() {
            write(stream, &line);
        }
        StdioSink::count_lost(warn_unwritten);
    }
}

/// Calls `write` with the progress bars out of the way, which come back behind it: for a program that prints while its
/// maps run. Where no bar is shown it just calls it.
///
/// No bar moves meanwhile, and what workers print waits (a megabyte of it; more is written in between), so `write`
/// should print, and not compute. It may call whatever it wants, maps included, and wait for other threads.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// for square in fastmap::fastmap(|n: u64| n * n, 0..3) {
///     let square = square?;
///     fastmap::suspend_progress(|| println!("{square}"));
/// }
/// # Ok::<(), fastmap::Error>(())
/// ```
pub fn suspend_progress<R>(write: impl FnOnce() -> R) -> R {
    if !is_drawn() || SUSPENDED.get() {
        return write();
    }
    let hold = Hold::begin();
    SUSPENDED.set(true);
    // The bars come back behind a panic as well: nothing is drawn while one is under way.
    let written = catch_unwind(AssertUnwindSafe(write));
    SUSPENDED.set(false);
    drop(hold);
    match written {
        Ok(written) => written,
        Err(panic) => resume_unwind(panic),
    }
}

/// This process's stderr for loggers: whole lines, with the progress bars out of the way.
///
/// With `env_logger`: `env_logger::builder().target(env_logger::Target::Pipe(Box::new(fastmap::stderr()))).init()`. With
/// `tracing-subscriber`: `tracing_subscriber::fmt().with_writer(fastmap::stderr).init()`. A logger that writes past it
/// is not lost: a line of its own may stand behind a bar, which is drawn anew below.
///
/// What is written is kept until its line ends, or until [`flush`](Write::flush).
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// let mut stderr = fastmap::stderr();
/// writeln!(stderr, "half {}", "done")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn stderr() -> Stderr {
    Stderr { line: Vec::new() }
}

/// Writes whole lines to stderr, between the progress bars; made by [`stderr()`].
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// let mut log: Box<dyn Write + Send> = Box::new(fastmap::stderr());
/// writeln!(log, "a line of its own")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Stderr {
    /// What has no end yet.
    line: Vec<u8>,
}

/// A line without an end is held until it is so long.
const LONGEST: usize = 64 * 1024;

impl Stderr {
    /// Writes so many bytes of what is held.
    fn give(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let write = || io::stderr().lock().write_all(&self.line[..bytes]);
        let written = if is_drawn() { between_bars(screen(), write) } else { write() };
        self.line.drain(..bytes);
        written
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        match self.line.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => self.give(end + 1)?,
            None if self.line.len() > LONGEST => self.give(self.line.len())?,
            None => {}
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.give(self.line.len())
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        let _closed = self.flush();
    }
}
