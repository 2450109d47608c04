//! The terminal, shared by bars, closing lines and what workers print, so that no line is broken.
//! Everything that fastmap writes to stderr, and all that it relays, goes through here.

use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A bar for a map that has run for some time. Drawn on a terminal only.
pub(crate) fn bar(label: Option<&str>, total: Option<u64>) -> ProgressBar {
    // Rate and time left come with the message: the bar appears late, and its own estimate would begin there.
    let template = match total {
        Some(_) => "{prefix}{wide_bar} {pos}/{len} {msg}",
        None => "{prefix}{spinner} {pos} {msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is right");
    // Hidden until it is among the others: what it drew before would stay on the screen.
    let bar = BARS.add(ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()));
    bar.set_style(style);
    bar.set_prefix(label.map(|label| format!("{label} ")).unwrap_or_default());
    SHOWN.fetch_add(1, Ordering::Relaxed);
    bar
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
