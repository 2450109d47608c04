//! Last words that one worker after the other repeats: where a library ends the process of each item with the
//! same lines, they are passed on once, and counted. Called by the supervisor with what workers write to
//! stderr.
//!
//! A line that looks like one of a dead worker's last is kept back for a moment: it is passed on when its
//! worker goes on to another item, writes something else, or lives for a second more, and counted when the
//! worker dies of it. So no line of a worker that lives is lost. Lines look alike where they differ in
//! addresses and in the numbers of their process and its threads alone. What each worker wrote last is in
//! the error of its item in any case.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::local::ipc::shared_page::SharedPage;
use crate::local::output::pipe::Stream;
use crate::local::output::queue::OutputQueue;
use crate::model::death::Running;
use crate::model::ids::JobId;
use crate::model::text::look_of;
use crate::model::words::noun;

/// Last lines of a dead worker that are remembered.
const WORDS: usize = 64;
/// Lines of all dead workers of a map that are remembered.
const MOST_KNOWN: usize = 4096;
/// Bytes of lines that are kept back of one worker.
const MOST_KEPT: usize = 64 * 1024;
/// A line is kept back for so long, and looked at so often.
const MOMENT: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// The count is written when there was no repetition for QUIET, and at the latest LATEST after the first.
const QUIET: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(10);

/// The last words of dead workers that were passed on, and the repetitions that were left out since.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    known: HashSet<u64>,
    /// The maps in whose time that was.
    maps: Vec<JobId>,
    count: Option<Count>,
}

/// Repetitions whose number was not written yet.
#[derive(Debug)]
struct Count {
    workers: u64,
    lines: u64,
    first: Instant,
    last: Instant,
}

/// The lines of one worker.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// How its latest lines look, as far as they were written in what it runs now.
    tail: VecDeque<u64>,
    running: Option<(u64, Running)>,
    kept: Vec<Vec<u8>>,
    since: Option<Instant>,
}

impl Repeats {
    /// These maps are open. Words that are known from other maps alone are forgotten, and so passed on again.
    pub(crate) fn open(&mut self, maps: Vec<JobId>, lines: &mut OutputQueue) {
        // Words are known for as long as one of the maps is open in whose time they were written. The count
        // is written before they are forgotten, because it refers to lines above it.
        if !self.known.is_empty() && !self.maps.iter().any(|map| maps.contains(map)) {
            self.known.clear();
            self.tell(lines);
        }
        // While words are known, the maps of their time are kept, whatever maps were opened since.
        if self.known.is_empty() {
            self.maps = maps;
        }
    }

    /// Writes how much was left out, if that is due; returns when to look again.
    pub(crate) fn look(&mut self, now: Instant, lines: &mut OutputQueue) -> Option<Duration> {
        let count = self.count.as_ref()?;
        // A function that ends each of its workers repeats its words all the time: the count is written after
        // LATEST in any case.
        if now.duration_since(count.last) >= QUIET || now.duration_since(count.first) >= LATEST {
            self.tell(lines);
            return None;
        }
        // No event shows that nothing is repeated any more, so the supervisor has to come back by the clock.
        Some(QUIET / 4)
    }

    /// Writes how much was left out.
    pub(crate) fn tell(&mut self, lines: &mut OutputQueue) {
        if let Some(Count { workers, lines: left_out, .. }) = self.count.take() {
            let like = if workers == 1 { "its" } else { "their" };
            let (more, are) = (noun(workers, "worker"), if left_out == 1 { "is" } else { "are" });
            let told = format!(
                "[fastmap: {workers} more {more} ended with the same words; {left_out} of {like} lines {are} \
                 left out here]\n"
            );
            lines.put(&Arc::from("fastmap"), Stream::Stderr, told.into_bytes());
        }
    }

    /// Whether something was left out whose number was not written yet.
    pub(crate) fn holds_some(&self) -> bool {
        self.count.is_some()
    }

    fn left_out(&mut self, left_out: u64) {
        let now = Instant::now();
        let count = self.count.get_or_insert(Count { workers: 0, lines: 0, first: now, last: now });
        count.workers += 1;
        count.lines += left_out;
        count.last = now;
    }
}

impl Words {
    /// The worker has written a line.
    pub(crate) fn line(
        &mut self,
        repeats: &Repeats,
        page: &SharedPage,
        process: u32,
        line: Vec<u8>,
        out: &mut dyn FnMut(Vec<u8>),
    ) {
        let running = page.running();
        // The worker has gone on to another item since its last line, so it has not died of the lines before.
        // They are passed on before this one, in the order in which they were written.
        if self.running != running {
            self.running = running;
            self.tail.clear();
            self.release(out);
        }
        let look = look_of(&line, process);
        self.tail.push_back(look);
        if self.tail.len() > WORDS {
            self.tail.pop_front();
        }
        let kept: usize = self.kept.iter().map(Vec::len).sum();
        // Beyond the bound lines are passed on: a worker that lives may write a known line for ever.
        if repeats.known.contains(&look) && kept < MOST_KEPT {
            // The time runs from the first line that is kept back: more of them do not prolong it.
            self.since.get_or_insert_with(Instant::now);
            self.kept.push(line);
        } else {
            self.release(out);
            out(line);
        }
    }

    /// Whether lines are kept back.
    pub(crate) fn holds_some(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Passes on what was kept back of a worker that goes on; returns when to look again.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        page: &SharedPage,
        out: &mut dyn FnMut(Vec<u8>),
    ) -> Option<Duration> {
        let since = self.since?;
        // Both show that the worker lives on: it has reached another item (or ended this one), or has
        // outlived its words by a second.
        if now.saturating_duration_since(since) >= MOMENT || page.running() != self.running {
            self.release(out);
            return None;
        }
        Some(LOOK)
    }

    fn release(&mut self, out: &mut dyn FnMut(Vec<u8>)) {
        self.since = None;
        self.kept.drain(..).for_each(out);
    }

    /// The worker is dead; `lethal`: not because it was asked to leave.
    pub(crate) fn end(mut self, repeats: &mut Repeats, lethal: bool, out: &mut dyn FnMut(Vec<u8>)) {
        if !lethal {
            // A worker that has left as it was asked to has not died of its words: they are neither left out
            // nor learned.
            return self.release(out);
        }
        if !self.kept.is_empty() {
            repeats.left_out(self.kept.len() as u64);
        }
        // Words beyond the bound are not learned, and their repetitions are passed on: no line is lost by it.
        if repeats.known.len() + self.tail.len() <= MOST_KNOWN {
            repeats.known.extend(self.tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::local::output::pipe::OutputSink;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<String>>);

    impl OutputSink for Kept {
        fn line(&self, _worker: &str, _stream: Stream, line: &[u8]) {
            self.0.lock().expect("no panic").push(String::from_utf8_lossy(line).trim().to_owned());
        }
    }

    /// What comes out of it where each worker writes lines and dies, or goes on to its next item.
    fn told(workers: &[(&[&str], bool)]) -> Vec<String> {
        let kept = Arc::new(Kept::default());
        let relay: Arc<dyn OutputSink> = Arc::<Kept>::clone(&kept);
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("a descriptor");
        let mut lines = OutputQueue::new(Arc::default(), relay, Arc::new(wake));
        let name: Arc<str> = Arc::from("w");
        let mut repeats = Repeats::default();
        for (written, dies) in workers {
            let (page, _stdin) = SharedPage::create().expect("a page");
            let item = page.begin(1);
            let mut words = Words::default();
            let mut out = |line| lines.put(&name, Stream::Stderr, line);
            for line in *written {
                words.line(&repeats, &page, 4000, format!("{line}\n").into_bytes(), &mut out);
            }
            if *dies {
                words.end(&mut repeats, true, &mut out);
            } else {
                item.store(1, Ordering::Release);
                assert_eq!(words.look(Instant::now(), &page, &mut out), None);
            }
        }
        repeats.tell(&mut lines);
        drop(lines);
        std::mem::take(&mut kept.0.lock().expect("no panic"))
    }

    #[test]
    fn equal_last_words_are_passed_on_once_and_counted() {
        let first: &[&str] = &["Fatal: no module in 0x7f00ab", "thread 4001"];
        let alike: &[&str] = &["Fatal: no module in 0x7f11cd", "thread 4003"];
        let told = told(&[(first, true), (alike, true), (alike, true)]);
        assert_eq!(told[..2], ["Fatal: no module in 0x7f00ab", "thread 4001"]);
        assert_eq!(
            told[2],
            "[fastmap: 2 more workers ended with the same words; 4 of their lines are left out here]"
        );
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn a_worker_that_lives_or_says_something_else_loses_no_line() {
        let lines: &[&str] = &["one", "two"];
        let other: &[&str] = &["one", "two", "three"];
        let told = told(&[(lines, true), (lines, false), (other, true)]);
        assert_eq!(told, ["one", "two", "one", "two", "one", "two", "three"]);
        assert_eq!(BTreeSet::from_iter(told).len(), 3);
    }
}
