//! What workers of a service print and log, fetched by the run's thread and handed to the relay.

use crate::cloud::notices::Notice;
use crate::cloud::protocol::{LogLine, LogPage};
use crate::cloud::session::Session;
use crate::local::{LogRecord, OutputSink, Stream};

/// Pages of lines that are fetched at a time; a page has 1000.
const PAGES: usize = 8;

/// How far the lines of one run have been fetched.
#[derive(Debug, Default)]
pub(crate) struct WorkerLines {
    /// The last line that was fetched; the service counts from 1.
    last: u64,
}

impl WorkerLines {
    /// Hands on what the workers have printed since.
    pub(crate) fn fetch(&mut self, session: &Session, run: &str) {
        for _ in 0..PAGES {
            let target = format!("/runs/{run}/logs?after={}", self.last);
            let Some(page) = session.try_call::<LogPage>("GET", &target, None::<&()>) else { return };
            let options = &session.options;
            let lost = |lines| options.notices.notice(&Notice::LinesLost { lines });
            let before = self.last;
            for line in &page.lines {
                if line.n > self.last + 1 {
                    lost(line.n - self.last - 1);
                }
                hand_on(options.relay.as_ref(), line);
                self.last = self.last.max(line.n);
            }
            if page.lines.is_empty() && page.next > self.last {
                // None of them was kept.
                lost(page.next - self.last);
                self.last = page.next;
            }
            if page.lines.is_empty() || self.last == before {
                return;
            }
        }
    }
}

/// Hands a worker's line on, or its log record: to this process's logger, where the relay does nothing else
/// with it.
fn hand_on(relay: &dyn OutputSink, line: &LogLine) {
    if let Some(level) = line.level.as_deref().and_then(|level| level.parse().ok()) {
        let target = line.target.as_deref().unwrap_or_default();
        let record =
            LogRecord { level, target, message: &line.text, module_path: None, file: None, line: None };
        return relay.record(&line.worker, &record);
    }
    let stream = if line.stream == "stdout" { Stream::Stdout } else { Stream::Stderr };
    relay.line(&line.worker, stream, format!("{}\n", line.text).as_bytes());
}
