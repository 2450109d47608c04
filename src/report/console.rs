//! The terminal, shared by bars, closing lines and what workers print, so that no line is broken.
//! Everything that fastmap writes to stderr, and all that it relays, goes through here; by [`stderr`] and
//! [`suspend_progress`] a program's own output does as well.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use console::Term;
use fastmap_backends::local::{PassThrough, Relay, Stream};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// The terminal is gone: nothing is drawn any more.
static GONE: AtomicBool = AtomicBool::new(false);
/// The process was stopped and goes on (Ctrl-Z and `fg`): the shell has written below the bars.
static CONTINUED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// A question stands on the terminal: no bar is drawn, and lines wait here. Each drawing holds it for as long as that
/// takes, and nothing else does: maps go on meanwhile, which a question that held the bars themselves would stop.
static QUESTION: Mutex<Option<Waiting>> = Mutex::new(None);

/// Lines that came while a question stands.
#[derive(Default)]
struct Waiting {
    lines: Vec<Box<dyn FnOnce() + Send>>,
    bytes: usize,
}

/// Bytes of lines that wait; further ones are written into the question.
const WAITING: usize = 1 << 20;

fn question() -> MutexGuard<'static, Option<Waiting>> {
    QUESTION.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// This thread writes with the bars out of the way, and must not ask for that again.
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

/// Writes with the bars out of the way.
fn between_bars<R>(write: impl FnOnce() -> R) -> R {
    if !is_drawn() || SUSPENDED.get() {
        return write();
    }
    let mut write = Some(write);
    // A terminal that was closed makes the library panic; what `write` panics of is the caller's.
    let suspended = catch_unwind(AssertUnwindSafe(|| {
        BARS.suspend(|| {
            SUSPENDED.set(true);
            let written = write.take().map(|write| catch_unwind(AssertUnwindSafe(write)));
            SUSPENDED.set(false);
            written
        })
    }));
    match (suspended, write) {
        (Ok(Some(Ok(written))), _) => written,
        (Ok(Some(Err(panic))), _) => resume_unwind(panic),
        (_, Some(write)) => {
            GONE.store(true, Ordering::Relaxed);
            write()
        }
        (Err(panic), None) => {
            GONE.store(true, Ordering::Relaxed);
            resume_unwind(panic)
        }
        (Ok(None), None) => unreachable!("it was there to be taken"),
    }
}

/// Writes a line of so many bytes with the bars out of the way: at once, or when the question that stands is answered.
fn in_turn(bytes: usize, write: impl FnOnce() + Send, owned: impl FnOnce() -> Box<dyn FnOnce() + Send>) {
    // Who asks writes behind its own question.
    if !SUSPENDED.get()
        && let Some(waiting) = &mut *question()
        && waiting.bytes < WAITING
    {
        waiting.bytes += bytes;
        waiting.lines.push(owned());
        return;
    }
    between_bars(write);
}

/// Writes a line to stderr. A closed stderr is no reason to stop.
pub(crate) fn line(text: &str) {
    fn write(text: &str) {
        let _closed = writeln!(io::stderr().lock(), "{text}");
    }
    in_turn(
        text.len(),
        || write(text),
        || {
            let text = text.to_owned();
            Box::new(move || write(&text))
        },
    );
}

/// Writes a warning to stderr, at any verbosity.
pub(crate) fn warn(text: &str) {
    line(&format!("fastmap: warning: {text}"));
}

/// Writes a notice to stderr; the verbosity is the caller's to look at.
pub(crate) fn notice(text: &str) {
    line(&format!("fastmap: {text}"));
}

/// Asks a question on the terminal, with the bars out of the way until it is answered: the line that came, without its
/// end. `None` where there is no terminal, or nobody at it. Maps go on meanwhile.
///
/// The terminal is that of the process, whatever stdin and stderr are; where it has none, stdin and stderr, if
/// both are one.
#[cfg(feature = "cloud")]
pub(crate) fn ask(question: &str) -> Option<String> {
    /// One at a time.
    static ASKING: Mutex<()> = Mutex::new(());
    let _alone = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    let _stands = Question::begin();
    if let Ok(terminal) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty") {
        return ask_at(question, &terminal, io::BufReader::new(&terminal));
    }
    let (stdin, stderr) = (io::stdin(), io::stderr());
    (stdin.is_terminal() && stderr.is_terminal()).then(|| ask_at(question, stderr, stdin.lock())).flatten()
}

/// While it lives no bar is drawn, and lines wait.
#[cfg(feature = "cloud")]
struct Question;

#[cfg(feature = "cloud")]
impl Question {
    fn begin() -> Self {
        // Behind a bar that is just being drawn.
        let mut question = question();
        *question = Some(Waiting::default());
        if is_drawn() {
            quietly(|| {
                let _closed = BARS.clear();
                // A bar that is taken away would have the others drawn.
                BARS.set_draw_target(ProgressDrawTarget::hidden());
            });
        }
        Question
    }
}

#[cfg(feature = "cloud")]
impl Drop for Question {
    fn drop(&mut self) {
        let waiting = {
            let mut question = question();
            if is_drawn() {
                quietly(|| BARS.set_draw_target(ProgressDrawTarget::stderr()));
            }
            question.take().unwrap_or_default()
        };
        for line in waiting.lines {
            between_bars(line);
        }
    }
}

/// A terminal that was closed makes the library panic: nothing is drawn from then on.
fn quietly(draw: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(draw)).is_err() {
        GONE.store(true, Ordering::Relaxed);
    }
}

#[cfg(feature = "cloud")]
fn ask_at(question: &str, mut output: impl Write, mut input: impl io::BufRead) -> Option<String> {
    write!(output, "{question} ").and_then(|()| output.flush()).ok()?;
    let mut line = String::new();
    let read = input.read_line(&mut line).ok()?;
    if read == 0 {
        // The cursor still stands behind the question.
        let _closed = writeln!(output);
        return None;
    }
    Some(line.trim().to_owned())
}

/// Draws the line of a map: `compose` is told the columns there are. The first time it is put below the others.
pub(crate) fn draw(bar: &mut Option<ProgressBar>, compose: impl FnOnce(usize) -> String) {
    if SUSPENDED.get() {
        return;
    }
    let question = question();
    if question.is_some() {
        return;
    }
    quietly(|| {
        let bar = bar.get_or_insert_with(|| {
            watch_stops();
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
    let mut bar = UPLOAD.lock().unwrap_or_else(PoisonError::into_inner);
    draw(&mut bar, |columns| super::progress::upload(what, sent, total, columns));
}

/// Takes the bar of an upload away, if there is one: it is through, or its map is over without it.
pub(crate) fn remove_upload() {
    let bar = UPLOAD.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(bar) = bar {
        remove(&bar);
    }
}

/// Takes a bar away.
pub(crate) fn remove(bar: &ProgressBar) {
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

impl Relay for Console {
    fn line(&self, worker: &str, stream: Stream, line: &[u8]) {
        static STDOUT_SHOWN: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
        // What goes to a file or a pipe breaks no bar.
        if stream == Stream::Stdout && !*STDOUT_SHOWN {
            PassThrough.line(worker, stream, line);
            return;
        }
        in_turn(
            line.len(),
            || PassThrough.line(worker, stream, line),
            || {
                let (worker, line) = (worker.to_owned(), line.to_owned());
                Box::new(move || PassThrough.line(&worker, stream, &line))
            },
        );
    }
}

/// Calls `write` with the progress bars out of the way, which come back behind it: for a program that prints while its
/// maps run. Where no bar is shown it just calls it.
///
/// No bar moves and no output of workers appears meanwhile, so `write` should print, and not compute. It may call
/// whatever it wants, maps included.
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
    between_bars(write)
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
        let written = between_bars(|| io::stderr().lock().write_all(&self.line[..bytes]));
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
