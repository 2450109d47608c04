//! What happens in open runs, for whoever watches: lines that workers print, and news for event streams.
//! Written by the agent (lines) and the gateway (batches, states); read by the gateway's logs and events. In memory and
//! bounded: of each run the last megabyte of lines, for as long as its answers are kept. An agent of another process
//! keeps none and forwards them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastmap_backends::cloud::{LogLine, LogPage, RunState};
use fastmap_backends::local::{Relay, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::store::now_ms;

/// Bytes of lines that are kept of each run.
const KEPT: usize = 1 << 20;
/// What a line counts beside its text.
const LINE: usize = 100;
/// A longer line is cut.
const LONGEST: usize = 4096;
/// Events that one who watches may fall behind.
const BEHIND: usize = 1024;

/// News of a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A worker has printed something.
    Log(LogLine),
    /// A batch was answered.
    Batch {
        /// Its number.
        seq: u64,
        /// Its items.
        items: u64,
        /// What it cost.
        charge: i64,
    },
    /// The run has ended.
    Ended(RunState),
}

/// A line that a worker has printed, without its number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Which worker.
    pub worker: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// What it has printed, without the line's end.
    pub text: String,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Lines before this one that were dropped.
    #[serde(default)]
    pub dropped: u64,
}

/// All runs that are watched or have printed something. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    runs: Arc<Mutex<HashMap<String, Watched>>>,
    /// Where lines go that are not kept here.
    forward: Option<mpsc::Sender<(String, Line)>>,
}

#[derive(Debug)]
struct Watched {
    lines: VecDeque<LogLine>,
    bytes: usize,
    next: u64,
    dropped: u64,
    sender: broadcast::Sender<Event>,
}

impl Watched {
    fn new() -> Self {
        let (sender, _) = broadcast::channel(BEHIND);
        Watched { lines: VecDeque::new(), bytes: 0, next: 1, dropped: 0, sender }
    }
}

impl Events {
    /// Keeps nothing: lines go there, with their run. What there is no room for is dropped, and counted.
    pub fn forwarding(to: mpsc::Sender<(String, Line)>) -> Self {
        Events { runs: Arc::default(), forward: Some(to) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Watched>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who watches.
    pub fn tell(&self, run: &str, event: Event) {
        if let Some(watched) = self.lock().get(run) {
            let _nobody = watched.sender.send(event);
        }
    }

    /// What happens in a run from now on.
    pub fn watch(&self, run: &str) -> broadcast::Receiver<Event> {
        self.lock().entry(run.to_owned()).or_insert_with(Watched::new).sender.subscribe()
    }

    /// Lines of a run behind number `after`, at most `most`.
    pub fn page(&self, run: &str, after: u64, most: usize) -> LogPage {
        let runs = self.lock();
        let Some(watched) = runs.get(run) else {
            return LogPage { lines: Vec::new(), dropped: 0, next: after };
        };
        let lines: Vec<LogLine> =
            watched.lines.iter().filter(|line| line.n > after).take(most).cloned().collect();
        let next = lines.last().map_or(after, |line| line.n);
        LogPage { lines, dropped: watched.dropped, next }
    }

    /// The last lines of a run, at most `most`.
    pub fn last(&self, run: &str, most: usize) -> LogPage {
        let runs = self.lock();
        let Some(watched) = runs.get(run) else {
            return LogPage { lines: Vec::new(), dropped: 0, next: 0 };
        };
        let skip = watched.lines.len().saturating_sub(most);
        let lines: Vec<LogLine> = watched.lines.iter().skip(skip).cloned().collect();
        LogPage { lines, dropped: watched.dropped, next: watched.next - 1 }
    }

    /// Forgets a run.
    pub fn forget(&self, run: &str) {
        self.lock().remove(run);
    }

    /// Where the workers of a run print to.
    pub fn relay(&self, run: &str) -> Arc<dyn Relay> {
        Arc::new(RunRelay { events: self.clone(), run: run.to_owned(), dropped: AtomicU64::new(0) })
    }

    /// Takes a line of a run.
    pub fn add(&self, run: &str, line: Line) {
        let Line { worker, stream, mut text, at_ms, dropped } = line;
        text.truncate(text.floor_char_boundary(LONGEST));
        let mut runs = self.lock();
        let watched = runs.entry(run.to_owned()).or_insert_with(Watched::new);
        let line = LogLine { n: watched.next, worker, stream, text, at_ms };
        watched.next += 1;
        watched.dropped += dropped;
        watched.bytes += line.text.len() + LINE;
        watched.lines.push_back(line.clone());
        while watched.bytes > KEPT {
            let Some(oldest) = watched.lines.pop_front() else { break };
            watched.bytes -= oldest.text.len() + LINE;
            watched.dropped += 1;
        }
        let _nobody = watched.sender.send(Event::Log(line));
    }
}

#[derive(Debug)]
struct RunRelay {
    events: Events,
    run: String,
    /// Lines since the last that was forwarded.
    dropped: AtomicU64,
}

impl Relay for RunRelay {
    fn line(&self, worker: &str, stream: Stream, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]).into_owned();
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let (worker, stream) = (worker.to_owned(), stream.to_owned());
        let line = Line { worker, stream, text, at_ms: now_ms().unsigned_abs(), dropped };
        match &self.events.forward {
            None => self.events.add(&self.run, line),
            Some(to) => {
                if to.try_send((self.run.clone(), line)).is_err() {
                    self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_what_is_lost_is_counted() {
        let events = Events::default();
        let relay = events.relay("r");
        for n in 0..30_000 {
            relay.line("w", Stream::Stderr, format!("line {n}\n").as_bytes());
        }
        relay.line("w", Stream::Stdout, &vec![b'x'; 1 << 20]);
        let page = events.page("r", 0, usize::MAX);
        assert_eq!(page.dropped + page.lines.len() as u64, 30_001);
        let bytes: usize = page.lines.iter().map(|line| line.text.len()).sum();
        assert!(bytes < KEPT && page.dropped > 0, "{bytes}");
        assert_eq!(page.next, 30_001);
        assert_eq!(page.lines.last().map(|line| line.text.len()), Some(LONGEST));
        assert_eq!(events.page("r", 30_000, 9).lines.len(), 1);
        assert!(events.page("other", 0, 9).lines.is_empty());
    }

    #[test]
    fn what_there_is_no_room_for_is_told_with_the_next_line() {
        let (to, mut lines) = mpsc::channel(2);
        let relay = Events::forwarding(to).relay("r");
        (0..5).for_each(|n| relay.line("w", Stream::Stdout, format!("{n}\n").as_bytes()));
        let mut next = || lines.try_recv().map(|(run, line)| (run, line.text, line.dropped)).ok();
        assert_eq!(next(), Some(("r".to_owned(), "0".to_owned(), 0)));
        assert_eq!(next(), Some(("r".to_owned(), "1".to_owned(), 0)));
        relay.line("w", Stream::Stdout, b"5\n");
        assert_eq!(next(), Some(("r".to_owned(), "5".to_owned(), 3)));
    }
}
