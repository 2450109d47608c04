//! Output and log records of a service's workers, fetched by the run's thread and passed to the output sink.

use crate::cloud::notices::Notice;
use crate::cloud::protocol::{LogLine, LogPage};
use crate::cloud::session::Session;
use crate::local::{LogRecord, OutputSink, Stream};

/// Maximum pages per fetch; a page has 1000 lines.
const MAX_PAGES: usize = 8;

/// Position in the lines of one run.
#[derive(Debug, Default)]
pub(crate) struct WorkerLines {
    /// Number of the last line fetched; the service counts from 1.
    last: u64,
}

impl WorkerLines {
    /// Passes on the lines printed since the last fetch.
    pub(crate) fn fetch(&mut self, session: &Session, run: &str) {
        for _ in 0..MAX_PAGES {
            let target = format!("/runs/{run}/logs?after={}", self.last);
            let Some(page) = session.try_call::<LogPage>("GET", &target, None::<&()>) else { return };
            let options = &session.options;
            let lost = |lines| options.notices.notice(&Notice::LinesLost { lines });
            let before = self.last;
            for line in &page.lines {
                if line.n > self.last + 1 {
                    lost(line.n - self.last - 1);
                }
                forward(options.relay.as_ref(), line);
                self.last = self.last.max(line.n);
            }
            if page.lines.is_empty() && page.next > self.last {
                // All these lines were dropped at the service.
                lost(page.next - self.last);
                self.last = page.next;
            }
            if page.lines.is_empty() || self.last == before {
                return;
            }
        }
    }
}

/// Passes on a worker's line or log record. A record goes to this process's logger unless the sink handles it
/// otherwise.
fn forward(relay: &dyn OutputSink, line: &LogLine) {
    if let Some(level) = line.level.as_deref().and_then(|level| level.parse().ok()) {
        let target = line.target.as_deref().unwrap_or_default();
        let record =
            LogRecord { level, target, message: &line.text, module_path: None, file: None, line: None };
        return relay.record(&line.worker, &record);
    }
    let stream = if line.stream == "stdout" { Stream::Stdout } else { Stream::Stderr };
    relay.line(&line.worker, stream, format!("{}\n", line.text).as_bytes());
}
