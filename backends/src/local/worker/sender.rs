//! The way from a worker to its host: frames through the channel, large answers through the shared memory.
//! Called by the working thread, by the thread that receives, and by the function's logger.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::local::ipc::arena::{SHARED_FROM, free_place};
use crate::local::ipc::shared_page::SharedPage;
use crate::local::process::descendants;
use crate::local::worker::{NOT_A_WORKER, Record};
use crate::model::frame::{Header, PACKET, ToHost};
use crate::model::text::cut;

/// The sending side: frames of the working thread, of the reader thread and of the logger, never mixed.
#[derive(Debug)]
pub(crate) struct Results {
    page: Arc<SharedPage>,
    /// Locked for a whole frame, whose packets must follow each other. No other lock is taken under it; a logger of the
    /// function's may hold any lock of its own when it comes here.
    sending: Mutex<()>,
}

impl Results {
    pub(crate) fn new(page: Arc<SharedPage>) -> Self {
        Results { page, sending: Mutex::default() }
    }

    /// Sends a frame. Without the way to the host this process is of no use: it ends, and the host, if it lives,
    /// takes what it held for lost.
    pub(crate) fn send(&self, frame: &[u8]) {
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        for packet in frame.chunks(PACKET) {
            if self.page.channel.send(packet).is_err() {
                descendants::end_own();
                // SAFETY: ends the process; nothing of it is used after.
                unsafe { libc::_exit(NOT_A_WORKER) }
            }
        }
    }
}

/// Answers in the shared memory that the host may not have copied out yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// Answers placed so far.
    count: u64,
    /// The number of each, and its place.
    taken: VecDeque<(u64, Range<usize>)>,
}

impl Placed {
    /// A place for an answer, if that is large and there is room. It is free until it is [kept](Placed::keep).
    pub(crate) fn find(&mut self, page: &SharedPage, length: usize) -> Option<Range<usize>> {
        if length < SHARED_FROM {
            return None;
        }
        // Answers are copied out in the order in which they were sent, so that one number is enough for all
        // places.
        let copied = page.copied();
        while self.taken.front().is_some_and(|(number, _)| *number <= copied) {
            self.taken.pop_front();
        }
        free_place(self.taken.iter().map(|(_, place)| place.clone()), length)
    }

    /// The place is taken from now on, because the host learns of it: until the host has copied the answer
    /// out.
    pub(crate) fn keep(&mut self, place: Range<usize>) {
        self.count += 1;
        self.taken.push_back((self.count, place));
    }
}

/// Bytes of a record's message that a stranger's host takes.
const RECORD: usize = 64 * 1024;

/// Sends the function's log records to the host's logger.
pub(crate) struct Forward {
    results: Arc<Results>,
    /// A longer message is cut.
    most: usize,
}

impl Forward {
    pub(crate) fn new(results: Arc<Results>, strict: bool) -> Self {
        Forward { results, most: if strict { RECORD } else { usize::MAX } }
    }
}

impl log::Log for Forward {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let record = Record {
            level: record.level() as usize,
            target: record.target().to_owned(),
            message: cut(record.args().to_string(), self.most),
            module: record.module_path().map(str::to_owned),
            file: record.file().map(str::to_owned),
            line: record.line(),
        };
        let payload = postcard::to_stdvec(&record).expect("a record can be written");
        self.results.send(&Header::frame(ToHost::Log, &payload));
    }

    fn flush(&self) {}
}
