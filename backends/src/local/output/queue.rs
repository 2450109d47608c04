//! What workers printed, on its way to the [`OutputSink`]: a bounded queue and the thread that empties it, so that a host
//! whose own output is not read (a full pipe, Ctrl-S on a terminal) still notices deaths and starts workers. Filled by
//! the supervisor; the thread is started with the first line, for most functions print nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use nix::sys::eventfd::EventFd;

use crate::local::output::delivery::Output;
use crate::local::output::pipe::{OutputSink, Stream};
use crate::local::signals::block_signals;
use crate::model::words::noun;

/// Bytes that may wait before workers are not read any more: they then wait themselves, as for a terminal.
const ROOM: usize = 1 << 20;
/// The last lines of dead workers are taken beyond that, up to here.
const MOST: usize = 16 << 20;
/// What a line takes beside its text.
const EACH: usize = 96;

struct Line {
    worker: Arc<str>,
    stream: Stream,
    text: Vec<u8>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.text.len() + EACH
    }
}

/// What is in the queue.
enum Entry {
    Line(Line),
    /// See `settle`.
    Mark(u64),
}

/// A line in the place of lines that are left out.
pub(crate) fn left_out(lines: u64, why: &str) -> String {
    let are = if lines == 1 { "is" } else { "are" };
    format!("[fastmap: {lines} {} {are} left out here: {why}]\n", noun(lines, "line"))
}

/// The supervisor's end of the queue. Dropping it waits until all lines are passed on.
pub(crate) struct OutputQueue {
    output: Arc<Output>,
    relay: Arc<dyn OutputSink>,
    /// Wakes the supervisor, which reads again once there is room.
    wake: Arc<EventFd>,
    thread: Option<(Sender<Entry>, JoinHandle<()>)>,
    left_out: u64,
}

impl OutputQueue {
    pub(crate) fn new(output: Arc<Output>, relay: Arc<dyn OutputSink>, wake: Arc<EventFd>) -> OutputQueue {
        OutputQueue { output, relay, wake, thread: None, left_out: 0 }
    }

    fn waiting(&self) -> usize {
        self.output.waiting.load(Ordering::SeqCst)
    }

    /// Whether workers may be read. If not, the supervisor is woken once they may.
    pub(crate) fn have_room(&self) -> bool {
        self.waiting() <= ROOM
    }

    /// Takes a line, its end included; never waits.
    pub(crate) fn put(&mut self, worker: &Arc<str>, stream: Stream, text: Vec<u8>) {
        // The supervisor must never wait for the relay, because it would notice no exit meanwhile. So what is
        // beyond the bound is dropped, and counted.
        let line = Line { worker: Arc::clone(worker), stream, text };
        if self.waiting() + line.bytes() > MOST {
            self.left_out += 1;
            return;
        }
        if self.left_out > 0 {
            // In the place of the lines that are left out: before the next one that has room again.
            let notice = left_out(self.left_out, "they were not read in time");
            self.left_out = 0;
            self.send(Line { worker: Arc::clone(worker), stream: Stream::Stderr, text: notice.into_bytes() });
        }
        self.send(line);
    }

    fn send(&mut self, line: Line) {
        if self.thread.is_none() {
            self.thread = self.start();
        }
        match &self.thread {
            Some((sender, _)) => {
                // Counted before the other thread can take the line: it would otherwise subtract first, and
                // the count would wrap. And before the supervisor reports that it keeps nothing back:
                // `has_output` looks at that first, and must find the line here then.
                self.output.waiting.fetch_add(line.bytes(), Ordering::SeqCst);
                // It ends when the sender is gone, and no sooner.
                let _taken = sender.send(Entry::Line(line));
            }
            // The system gives no thread: better late than not at all.
            None => pass_on(self.relay.as_ref(), &line),
        }
    }

    /// Has a wait end when all lines so far are passed on.
    pub(crate) fn mark(&self, mark: u64) {
        match &self.thread {
            Some((sender, _)) => {
                let _taken = sender.send(Entry::Mark(mark));
            }
            // Without a thread there was no line yet, or each was passed on in `send`.
            None => self.output.reach(mark),
        }
    }

    fn start(&self) -> Option<(Sender<Entry>, JoinHandle<()>)> {
        let (sender, entries) = channel();
        let (output, relay, wake) =
            (Arc::clone(&self.output), Arc::clone(&self.relay), Arc::clone(&self.wake));
        let thread = Builder::new().name("fastmap-relay".to_owned());
        let thread = thread.spawn(move || carry(&entries, &output, relay.as_ref(), &wake)).ok()?;
        Some((sender, thread))
    }
}

impl Drop for OutputQueue {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.thread.take() {
            // The thread ends when it has passed on what is in the queue and no sender is left.
            drop(sender);
            drop(thread.join());
        }
        // After the last line. The relay may be the program's own: its panic must not end the supervisor.
        let _lost = catch_unwind(AssertUnwindSafe(|| self.relay.flush()));
    }
}

fn carry(entries: &Receiver<Entry>, output: &Output, relay: &dyn OutputSink, wake: &EventFd) {
    block_signals();
    // A relay of the program's may run a map itself: the end of that map must not wait for this very thread.
    Output::passes_on();
    for entry in entries {
        let line = match entry {
            Entry::Line(line) => line,
            Entry::Mark(mark) => {
                output.reach(mark);
                continue;
            }
        };
        pass_on(relay, &line);
        let before = output.passed(line.bytes());
        // While there is no room the supervisor polls no pipe, so it has to be woken once there is. The count
        // comes from one atomic step: of all lines exactly one crosses the bound, and only that one costs a
        // wake-up.
        if before > ROOM && before - line.bytes() <= ROOM {
            // It fails only when the counter is full, and then the supervisor is awake.
            let _awake = wake.write(1);
        }
    }
}

/// A relay that panics loses its line, and nothing else.
fn pass_on(relay: &dyn OutputSink, line: &Line) {
    let _lost = catch_unwind(AssertUnwindSafe(|| relay.line(&line.worker, line.stream, &line.text)));
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    /// Takes nothing until it is opened.
    #[derive(Debug, Default)]
    struct Shut {
        open: Mutex<bool>,
        opened: Condvar,
        taken: Mutex<Vec<String>>,
    }

    impl OutputSink for Shut {
        fn line(&self, _worker: &str, _stream: Stream, line: &[u8]) {
            let open = self.open.lock().expect("no panic");
            let limit = Duration::from_secs(60);
            let waited = self.opened.wait_timeout_while(open, limit, |open| !*open).expect("no panic");
            assert!(!waited.1.timed_out());
            self.taken.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
        }
    }

    #[test]
    fn a_relay_that_waits_holds_nobody_up_and_loses_only_what_is_told() {
        let shut = Arc::new(Shut::default());
        let relay: Arc<dyn OutputSink> = shut.clone();
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("a descriptor");
        let mut lines = OutputQueue::new(Arc::default(), relay, Arc::new(wake));
        let worker = Arc::from("w");
        let text = vec![b'x'; 1 << 16];
        let before = (0..).take_while(|_| {
            let room = lines.have_room();
            lines.put(&worker, Stream::Stdout, text.clone());
            room
        });
        assert_eq!(before.count(), ROOM.div_ceil(text.len() + EACH), "as many as there is room for");
        for _ in 0..MOST / text.len() {
            lines.put(&worker, Stream::Stdout, text.clone());
        }
        assert!(lines.left_out > 0, "what waits is bounded");
        *shut.open.lock().expect("no panic") = true;
        shut.opened.notify_all();
        while !lines.have_room() {
            std::thread::yield_now();
        }
        let left_out = lines.left_out;
        lines.put(&worker, Stream::Stderr, b"last\n".to_vec());
        drop(lines);
        let taken = shut.taken.lock().expect("no panic");
        let notice = format!("{left_out} lines are left out");
        assert!(taken[taken.len() - 2].contains(&notice), "{}", taken[taken.len() - 2]);
        assert_eq!(taken[taken.len() - 1], "last\n");
    }
}
