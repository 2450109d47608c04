//! Logs of open runs: lines that workers print, and events for event streams. Written by the agent (lines) and the
//! gateway (batches, states); read by the gateway's logs and events. In memory and bounded: of each run the last
//! megabyte of lines, for as long as its answers are kept; of all runs together 256 MB. An agent of another process
//! keeps none and forwards them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use fastmap_backends::cloud::{LogLine, LogPage, RunState};
use fastmap_backends::counted;
use fastmap_backends::local::{LogRecord, OutputSink, Stream};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use log::Level;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::clock::now_ms;
use crate::text::{self, bounded};

/// Bytes of lines that are kept of each run.
const KEPT: usize = 1 << 20;
/// Bytes that are kept of all runs.
const KEPT_OF_ALL: usize = 256 << 20;
/// What a line counts beside its text: its fields, and three small pieces of memory for its words.
const LINE: usize = 200;
/// What a run counts beside its lines.
const RUN: usize = 400;
/// What a channel counts: it has all its places from its begin.
const CHANNEL: usize = BEHIND * 128;
/// A longer line is cut.
const LONGEST: usize = 4096;
/// A longer target of a log record is cut.
const LONGEST_TARGET: usize = 256;
/// Events that one who watches may fall behind.
const BEHIND: usize = 1024;

/// Something that has happened in a run.
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    /// Which worker.
    pub worker: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// What it has printed, without the line's end.
    pub text: String,
    /// Of a log record: its level and its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// As the level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Lines before this one that were dropped.
    #[serde(default)]
    pub dropped: u64,
}

/// All runs that are watched or have printed something. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RunLogs {
    kept: Arc<Mutex<Kept>>,
    /// Where lines go that are not kept here.
    forward: Option<mpsc::Sender<(String, Line)>>,
}

#[derive(Debug)]
struct Kept {
    runs: HashMap<String, Watched>,
    /// What they count together, and may.
    bytes: usize,
    most: usize,
    /// How many have ended so far.
    ends: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { runs: HashMap::new(), bytes: 0, most: KEPT_OF_ALL, ends: 0 }
    }
}

#[derive(Debug, Default)]
struct Watched {
    lines: VecDeque<LogLine>,
    /// What these count.
    bytes: usize,
    /// Lines that have come so far.
    printed: u64,
    dropped: u64,
    /// To all that watch; made with the first.
    sender: Option<broadcast::Sender<Event>>,
    /// `None`: it is open, as far as was heard here.
    ended: Option<Ended>,
}

/// That a run has ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    /// Whose it was, if that is known.
    account: Option<i64>,
    /// Its number among those that have ended.
    n: u64,
}

impl Watched {
    fn cost(&self) -> usize {
        RUN + self.bytes + self.sender.as_ref().map_or(0, |_| CHANNEL)
    }

    /// Sends it to all that watch. The channel goes with the last of them.
    fn emit(&mut self, event: Event) {
        if self.sender.as_ref().is_some_and(|sender| sender.send(event).is_err()) {
            self.sender = None;
        }
    }
}

impl Kept {
    /// Changes what is known of a run, and makes room for it.
    fn change<T>(&mut self, run: &str, change: impl FnOnce(&mut Watched) -> T) -> T {
        let watched = self.runs.entry(run.to_owned()).or_insert_with(|| {
            self.bytes += RUN;
            Watched::default()
        });
        let before = watched.cost();
        let changed = change(watched);
        self.bytes = self.bytes + watched.cost() - before;
        if self.bytes > self.most {
            self.make_room();
        }
        changed
    }

    /// Makes room, and some to spare: all runs are looked through for it.
    fn make_room(&mut self) {
        let enough = self.most - self.most / 16;
        for run in self.order() {
            if self.bytes <= enough {
                return;
            }
            self.shrink(&run);
        }
    }

    /// Who gives first where there is no room. Runs that have ended, and have lines: the oldest of the account that has most,
    /// so that a flood drives out what is its own. Then those that have ended and have none. Then open runs, of which the
    /// one that has most.
    fn order(&self) -> Vec<String> {
        let mut newest_first: Vec<_> = self.runs.iter().collect();
        newest_first.sort_unstable_by_key(|(_, watched)| Reverse(watched.ended.map(|ended| ended.n)));
        let mut accounts: HashMap<Option<i64>, usize> = HashMap::new();
        let mut ranked = Vec::new();
        for (run, watched) in newest_first {
            let with_newer = match watched.ended {
                None => watched.bytes,
                Some(Ended { account, .. }) => {
                    let bytes = accounts.entry(account).or_default();
                    *bytes += watched.cost();
                    *bytes
                }
            };
            ranked.push((watched.ended.is_some(), !watched.lines.is_empty(), with_newer, run));
        }
        ranked.sort_unstable();
        ranked.into_iter().rev().map(|(_, _, _, run)| run.clone()).collect()
    }

    /// Forgets a run's lines as a whole, and counts them; of one that has ended and has none, the rest.
    fn shrink(&mut self, run: &str) {
        let Some(watched) = self.runs.get_mut(run) else { return };
        if watched.ended.is_some() && watched.lines.is_empty() {
            return self.forget(run);
        }
        self.bytes -= watched.bytes;
        watched.dropped += watched.lines.len() as u64;
        watched.lines = VecDeque::new();
        watched.bytes = 0;
    }

    fn forget(&mut self, run: &str) {
        if let Some(watched) = self.runs.remove(run) {
            self.bytes -= watched.cost();
        }
    }
}

impl RunLogs {
    /// Keeps nothing: lines go there, with their run. What there is no room for is dropped, and counted.
    pub fn forwarding(to: mpsc::Sender<(String, Line)>) -> Self {
        RunLogs { kept: Arc::default(), forward: Some(to) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock_unpoisoned()
    }

    /// Sends what goes on to all that watch. `end` sends its end.
    pub fn emit(&self, run: &str, event: Event) {
        let mut kept = self.lock();
        if kept.runs.contains_key(run) {
            kept.change(run, |watched| watched.emit(event));
        }
    }

    /// A run has ended: who watches hears it, as the last thing. Its lines stay until it is forgotten, among those of its
    /// account.
    pub fn end(&self, run: &str, account: Option<i64>, state: RunState) {
        let mut kept = self.lock();
        if kept.runs.get(run).is_none_or(|watched| watched.ended.is_some()) {
            return;
        }
        kept.ends += 1;
        let n = kept.ends;
        kept.change(run, |watched| {
            watched.emit(Event::Ended(state));
            watched.sender = None;
            watched.ended = Some(Ended { account, n });
        });
    }

    /// What happens in a run from now on; nothing, if it has ended.
    pub fn watch(&self, run: &str) -> broadcast::Receiver<Event> {
        self.lock().change(run, |watched| {
            if watched.ended.is_some() {
                return broadcast::channel(1).1;
            }
            watched.sender.get_or_insert_with(|| broadcast::channel(BEHIND).0).subscribe()
        })
    }

    /// Runs that are known here.
    pub fn runs(&self) -> Vec<String> {
        self.lock().runs.keys().cloned().collect()
    }

    /// Those of them whose end was not heard of here.
    pub fn open_runs(&self) -> BTreeSet<String> {
        let kept = self.lock();
        let open = kept.runs.iter().filter(|(_, watched)| watched.ended.is_none());
        open.map(|(run, _)| run.clone()).collect()
    }

    /// Lines of a run behind number `after`, at most `most`. Numbers that are left out are those of lines
    /// that were not kept; where none is kept any more, `next` is the number of the last that came.
    pub fn page(&self, run: &str, after: u64, most: usize) -> LogPage {
        let kept = self.lock();
        let Some(watched) = kept.runs.get(run) else {
            return LogPage { lines: Vec::new(), dropped: 0, next: after };
        };
        let lines: Vec<LogLine> =
            watched.lines.iter().filter(|line| line.n > after).take(most).cloned().collect();
        let next = lines.last().map_or(after.max(watched.printed), |line| line.n);
        LogPage { lines, dropped: watched.dropped, next }
    }

    /// The last lines of a run, at most `most`.
    pub fn last(&self, run: &str, most: usize) -> LogPage {
        let kept = self.lock();
        let Some(watched) = kept.runs.get(run) else {
            return LogPage { lines: Vec::new(), dropped: 0, next: 0 };
        };
        let skip = watched.lines.len().saturating_sub(most);
        let lines: Vec<LogLine> = watched.lines.iter().skip(skip).cloned().collect();
        LogPage { lines, dropped: watched.dropped, next: watched.printed }
    }

    /// Forgets a run.
    pub fn forget(&self, run: &str) {
        self.lock().forget(run);
    }

    /// Where the workers of a run print to.
    pub fn relay(&self, run: &str) -> Arc<dyn OutputSink> {
        Arc::new(RunRelay { events: self.clone(), run: run.to_owned(), dropped: AtomicU64::new(0) })
    }

    /// Takes a line of a run.
    pub fn add(&self, run: &str, line: Line) {
        let Line { worker, stream, text, level, target, at_ms, dropped } = line;
        let (worker, stream) = (bounded(worker, text::NAME), bounded(stream, text::NAME));
        let text = bounded(text, LONGEST);
        let level = level.filter(|level| level.parse::<Level>().is_ok());
        let target = target.map(|target| bounded(target, LONGEST_TARGET));
        self.lock().change(run, |watched| {
            // What an agent had no room for has its numbers as well, so that a reader can count it.
            watched.printed += dropped + 1;
            let line = LogLine { n: watched.printed, worker, stream, text, level, target, at_ms };
            if watched.sender.is_some() {
                watched.emit(Event::Log(line.clone()));
            }
            watched.dropped += dropped;
            watched.bytes += cost(&line);
            watched.lines.push_back(line);
            while watched.bytes > KEPT {
                let Some(oldest) = watched.lines.pop_front() else { break };
                watched.bytes -= cost(&oldest);
                watched.dropped += 1;
            }
        });
    }
}

/// What a line counts.
fn cost(line: &LogLine) -> usize {
    line.text.len() + line.target.as_ref().map_or(0, String::len) + LINE
}

#[derive(Debug)]
struct RunRelay {
    events: RunLogs,
    run: String,
    /// Lines since the last that was forwarded.
    dropped: AtomicU64,
}

impl OutputSink for RunRelay {
    fn line(&self, worker: &str, stream: Stream, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let text = bounded(String::from_utf8_lossy(line).into_owned(), LONGEST);
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.put(Line { worker: worker.to_owned(), stream: stream.to_owned(), text, ..Line::default() });
    }

    /// Nothing comes any more that could bring the count of lines for which there was no room.
    fn flush(&self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("[fastmap: {} of this run had no room on the way]", counted(dropped, "line"));
            let (worker, stream) = ("fastmap".to_owned(), "stderr".to_owned());
            self.put(Line { worker, stream, text, ..Line::default() });
        }
    }

    /// A line of its own on stderr, for readers that know of no records. Nothing of it comes into the
    /// service's log.
    fn record(&self, worker: &str, record: &LogRecord<'_>) {
        let cut = |text: &str, most| text[..text.floor_char_boundary(most)].to_owned();
        self.put(Line {
            worker: worker.to_owned(),
            stream: "stderr".to_owned(),
            text: bounded(record.message.to_owned(), LONGEST),
            level: Some(record.level.to_string()),
            target: Some(cut(record.target, LONGEST_TARGET)),
            ..Line::default()
        });
    }
}

impl RunRelay {
    /// Keeps or forwards a line.
    fn put(&self, line: Line) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let line = Line { at_ms: now_ms().unsigned_abs(), dropped, ..line };
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
mod tests;
