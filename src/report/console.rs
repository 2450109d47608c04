//! The terminal, shared by bars, closing lines and what workers print, so that no line is broken.
//! Everything that fastmap writes to stderr, and all that it relays, goes through here.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use fastmap_backends::local::{PassThrough, Relay, Stream};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// Bars on the screen: without any, a line is just written.
static SHOWN: AtomicUsize = AtomicUsize::new(0);

/// Writes with the bars out of the way.
fn between_bars(write: impl FnOnce()) {
    if SHOWN.load(Ordering::Relaxed) == 0 {
        write();
    } else {
        BARS.suspend(write);
    }
}

/// Writes a line to stderr. A closed stderr is no reason to stop.
pub(crate) fn line(text: &str) {
    between_bars(|| {
        let _closed = writeln!(std::io::stderr().lock(), "{text}");
    });
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
/// end. `None` where there is no terminal, or nobody at it.
///
/// The terminal is that of the process, whatever stdin and stderr are; where it has none, stdin and stderr, if
/// both are one.
#[cfg(feature = "cloud")]
pub(crate) fn ask(question: &str) -> Option<String> {
    // Bars that begin meanwhile wait as well; so does who else asks.
    BARS.suspend(|| {
        if let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") {
            return ask_at(question, &terminal, BufReader::new(&terminal));
        }
        let (stdin, stderr) = (io::stdin(), io::stderr());
        (stdin.is_terminal() && stderr.is_terminal())
            .then(|| ask_at(question, stderr, stdin.lock()))
            .flatten()
    })
}

#[cfg(feature = "cloud")]
fn ask_at(question: &str, mut output: impl Write, mut input: impl BufRead) -> Option<String> {
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

/// A bar for a map that has run for some time. Drawn on a terminal only.
pub(crate) fn bar(label: Option<&str>, total: Option<u64>) -> ProgressBar {
    // Rate and time left come with the message: the bar appears late, and its own estimate would begin there.
    let template = match total {
        Some(_) => "{prefix}{wide_bar} {pos}/{len} {msg}",
        None => "{prefix}{spinner} {pos} {msg}",
    };
    add(total, template, label.map(|label| format!("{label} ")).unwrap_or_default())
}

fn add(total: Option<u64>, template: &str, prefix: String) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is right");
    // Hidden until it is among the others: what it drew before would stay on the screen.
    let bar = BARS.add(ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()));
    bar.set_style(style);
    bar.set_prefix(prefix);
    SHOWN.fetch_add(1, Ordering::Relaxed);
    bar
}

/// The bar of an upload. There is one at a time: what is uploaded is uploaded once for all maps.
#[cfg(feature = "cloud")]
pub(crate) struct Upload;

static UPLOAD: Mutex<Option<ProgressBar>> = Mutex::new(None);

#[cfg(feature = "cloud")]
impl Upload {
    /// So many bytes of it are there.
    pub(crate) fn show(what: &str, sent: u64, total: u64) {
        if sent >= total {
            return remove_upload();
        }
        let mut upload = UPLOAD.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = upload.get_or_insert_with(|| {
            let template = "fastmap: uploading the {prefix} {wide_bar} {bytes}/{total_bytes}";
            add(Some(total), template, what.to_owned())
        });
        bar.set_position(sent);
    }
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
    bar.finish_and_clear();
    BARS.remove(bar);
    SHOWN.fetch_sub(1, Ordering::Relaxed);
}

/// Passes on what workers print, between the bars.
#[derive(Debug)]
pub(crate) struct Console;

impl Relay for Console {
    fn line(&self, worker: &str, stream: Stream, line: &[u8]) {
        between_bars(|| PassThrough.line(worker, stream, line));
    }
}
