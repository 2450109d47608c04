//! The host's sending side of one worker. A caller never waits here: what would wait goes to a thread of its own.
//! Called by the pool when it hands out batches, under the pool's lock.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::local::ipc::shared_page::SharedPage;
use crate::local::signals::block_signals;
use crate::model::batch::Batch;
use crate::model::frame::PACKET;

/// Time after which a send fails for which the page has promised room. The promise may be wrong, because the
/// function can write to the page. The time is longer than a busy machine keeps a worker from taking a
/// packet: the host holds a lock meanwhile, but a send that is known to wait is made by a thread of its own.
const SEND: Duration = Duration::from_secs(10);
/// The same for a stranger's worker. It takes what it is sent at once, whatever its function does. One that has not
/// for so long is cut off.
const SEND_TO_STRANGER: Duration = Duration::from_secs(5);

/// A frame on its way out.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Bytes(Arc<Vec<u8>>),
    /// Its bytes are shared with the pool, which may have to send them again.
    Batch(Batch),
}

impl Frame {
    fn bytes(&self) -> &[u8] {
        match self {
            Frame::Bytes(bytes) => bytes,
            Frame::Batch(batch) => batch.packet(),
        }
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Frame::Bytes(Arc::new(bytes))
    }
}

/// Sends frames to one worker, in order.
#[derive(Debug)]
pub(crate) struct FrameSender {
    shared: Arc<Shared>,
    /// Whether a thread for frames that would wait was started.
    writer: bool,
}

/// Its lock is taken under the pool's, and never while a send may wait: the writer thread sends without it, and a caller
/// sends under it only what has room.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
    page: Arc<SharedPage>,
    own: bool,
}

#[derive(Debug)]
struct State {
    /// Nothing is sent any more.
    closed: bool,
    /// Frames for the writer thread, the first of which it may be sending.
    queue: VecDeque<Frame>,
    sent: u64,
    /// Packets that were sent from here and not seen to be taken: number and size.
    untaken: VecDeque<(u64, usize)>,
    /// A packet that was said to have room had none for as long as a send may take: the worker lies on its page.
    stuck: bool,
}

impl FrameSender {
    /// `own`: the worker is a process of this program, which a user may stop for as long as they like.
    pub(crate) fn new(page: Arc<SharedPage>, own: bool) -> Self {
        // It can't fail for a socket and a time that is valid.
        let _limited = page.channel.limit_sends(if own { SEND } else { SEND_TO_STRANGER });
        let state =
            State { closed: false, queue: VecDeque::new(), sent: 0, untaken: VecDeque::new(), stuck: false };
        FrameSender {
            shared: Arc::new(Shared { state: Mutex::new(state), more: Condvar::new(), page, own }),
            writer: false,
        }
    }

    /// Sends a frame, now or as soon as the worker takes it. Never waits for the worker.
    ///
    /// A frame to a dead worker is dropped: the supervisor reports its death, and what it held is sent again.
    /// A worker that can't be sent to for another reason (no memory for the socket) sees the channel end, and
    /// ends by that.
    pub(crate) fn send(&mut self, frame: Frame) {
        let mut state = lock(&self.shared.state);
        if state.closed {
            return;
        }
        let bytes = frame.bytes();
        // An empty queue: behind frames of the writer thread this one would overtake them.
        if bytes.len() <= PACKET && state.queue.is_empty() && state.has_room(self.shared.page.received()) {
            state.sent += 1;
            let number = state.sent;
            state.untaken.push_back((number, bytes.len()));
            if let Err(error) = self.shared.page.channel.send(bytes) {
                // Any other error is a dead worker, or a system without memory: neither is a lie.
                state.stuck = error.kind() == io::ErrorKind::WouldBlock;
                self.shared.give_up(&mut state);
            }
            return;
        }
        state.queue.push_back(frame);
        drop(state);
        self.shared.more.notify_one();
        if !self.writer {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("fastmap-writer".to_owned());
            // After the frame was put into the queue, so that the thread finds it there without being woken.
            self.writer = thread
                .spawn(move || {
                    block_signals();
                    shared.write();
                })
                .is_ok();
            if !self.writer {
                // Without a thread the frame would never be sent: the worker has to see an end, not a gap.
                self.shared.give_up(&mut lock(&self.shared.state));
            }
        }
    }

    /// Whether the worker has lied about what it took.
    pub(crate) fn is_stuck(&self) -> bool {
        lock(&self.shared.state).stuck
    }

    /// Ends the channel. What was not sent is dropped.
    pub(crate) fn close(&mut self) {
        self.shared.give_up(&mut lock(&self.shared.state));
        self.shared.more.notify_one();
    }
}

impl Drop for FrameSender {
    /// Ends the writer thread once its send is over, which is at the latest when the worker is dead. Not joined: this
    /// may run under the pool's lock.
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        state.queue.clear();
        drop(state);
        // The channel itself is left alone: in a fork of the host it is the parent's, and else the worker is dead.
        self.shared.more.notify_one();
    }
}

impl State {
    /// Whether the socket takes one more packet without waiting for the worker, which may be stopped.
    ///
    /// A send waits while the packets in the socket fill its buffer (208 KB by default, however large the next one
    /// is); a packet takes less than twice its size and 1 KB there: 278 of 64 B, 93 of 1 KB, 11 of 16 KB, 4 of 64 KB fit.
    fn has_room(&mut self, received: u64) -> bool {
        while self.untaken.front().is_some_and(|(number, _)| *number <= received) {
            self.untaken.pop_front();
        }
        // What the writer thread sent is not in the list: wait until all of it is taken.
        let known = received + self.untaken.len() as u64 == self.sent;
        let filled: usize = self.untaken.iter().map(|(_, size)| 2 * size + 1024).sum();
        known && filled < 128 * 1024
    }
}

impl Shared {
    /// Ends the channel. The worker sees its end after what was sent; a send that waits fails.
    fn give_up(&self, state: &mut State) {
        state.closed = true;
        state.queue.clear();
        self.page.channel.close();
    }

    /// Waits for a worker that is stopped, but not for a stranger.
    fn send(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match self.page.channel.send(packet) {
                Err(error) if self.own && error.kind() == io::ErrorKind::WouldBlock => {
                    // A drop closes without an end of the channel, so that a send which has waited for its
                    // time looks here whether it is still wanted.
                    if lock(&self.state).closed {
                        return Err(error);
                    }
                }
                sent => return sent,
            }
        }
    }

    fn write(&self) {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return;
            }
            let Some(frame) = state.queue.front().cloned() else {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // Before the send: a worker that takes a packet of it at once must not have taken more than was sent.
            state.sent += frame.bytes().len().div_ceil(PACKET) as u64;
            drop(state);
            let sent = frame.bytes().chunks(PACKET).try_for_each(|packet| self.send(packet));
            state = lock(&self.state);
            if sent.is_err() {
                return self.give_up(&mut state);
            }
            // Only now: a frame that is being sent keeps callers from sending beside it.
            state.queue.pop_front();
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_worker_that_says_it_took_what_it_did_not_holds_up_nobody_for_long() {
        let (page, _stdin) = SharedPage::create().expect("a page");
        let page = Arc::new(page);
        let mut outbox = FrameSender::new(Arc::clone(&page), false);
        let begun = Instant::now();
        for _ in 0..10_000 {
            outbox.send(vec![0; 1000].into());
            page.count_received();
            if outbox.is_stuck() {
                break;
            }
        }
        assert!(outbox.is_stuck());
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
