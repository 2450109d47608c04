//! The host's sending side of one worker. A caller never waits here: what would wait goes to a thread of its own.
//! Called by the pool when it hands out batches, under the pool's lock.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ipc_channel::ipc::IpcBytesSender;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};

use super::page::Page;
use super::supervisor::block_signals;
use crate::batch::Batch;
use crate::wire::PACKET;

/// A frame on its way out.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Bytes(Arc<Vec<u8>>),
    /// Its bytes are shared with whoever may have to send them again.
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
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    /// Whether a thread for frames that would wait was started.
    writer: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
    page: Arc<Page>,
    own: bool,
}

#[derive(Debug)]
struct State {
    /// Taken away when the outbox is closed; the worker sees the channel's end once a running send is over.
    sender: Option<Arc<IpcBytesSender>>,
    /// Frames for the writer thread, the first of which it may be sending.
    queue: VecDeque<Frame>,
    sent: u64,
    /// Packets that were sent from here and not seen to be taken: number and size.
    untaken: VecDeque<(u64, usize)>,
    /// A packet that was said to have room had none for as long as a send may take: the worker lies on its page.
    stuck: bool,
}

impl Outbox {
    /// `own`: the worker is a process of this program, which may be stopped for as long as somebody likes.
    pub(crate) fn new(sender: IpcBytesSender, page: Arc<Page>, own: bool) -> Self {
        let state = State {
            sender: Some(Arc::new(sender)),
            queue: VecDeque::new(),
            sent: 0,
            untaken: VecDeque::new(),
            stuck: false,
        };
        Outbox {
            shared: Arc::new(Shared { state: Mutex::new(state), more: Condvar::new(), page, own }),
            writer: false,
        }
    }

    /// Sends a frame, now or as soon as the worker takes it. Never waits for the worker.
    ///
    /// A frame to a dead worker is dropped: its death is told elsewhere, and nothing is lost by it. A worker that
    /// can't be sent to for another reason (no memory for the socket) sees the channel end, and ends by that.
    pub(crate) fn send(&mut self, frame: Frame) {
        let mut state = lock(&self.shared.state);
        let bytes = frame.bytes();
        if bytes.len() <= PACKET && state.queue.is_empty() && state.has_room(self.shared.page.received()) {
            let Some(sender) = state.sender.clone() else { return };
            state.sent += 1;
            let number = state.sent;
            state.untaken.push_back((number, bytes.len()));
            if let Err(error) = send_packet(&sender, bytes) {
                state.stuck = error.kind() == io::ErrorKind::WouldBlock;
                state.give_up();
            }
            return;
        }
        state.queue.push_back(frame);
        drop(state);
        self.shared.more.notify_one();
        if !self.writer {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("fastmap-writer".to_owned());
            self.writer = thread
                .spawn(move || {
                    block_signals();
                    shared.write();
                })
                .is_ok();
            if !self.writer {
                lock(&self.shared.state).give_up();
            }
        }
    }

    /// Whether the worker has lied about what it took.
    pub(crate) fn is_stuck(&self) -> bool {
        lock(&self.shared.state).stuck
    }

    /// Ends the channel. What was not sent is dropped.
    pub(crate) fn close(&mut self) {
        lock(&self.shared.state).give_up();
        self.shared.more.notify_one();
    }
}

impl Drop for Outbox {
    /// Ends the writer thread once its send is over, which is at the latest when the worker is dead. Not joined: this
    /// may run under the pool's lock.
    fn drop(&mut self) {
        self.close();
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

    fn give_up(&mut self) {
        self.sender = None;
        self.queue.clear();
    }
}

impl Shared {
    /// Waits for a worker that is stopped, but not for a stranger.
    fn send(&self, sender: &IpcBytesSender, packet: &[u8]) -> io::Result<()> {
        loop {
            match send_packet(sender, packet) {
                Err(error) if self.own && error.kind() == io::ErrorKind::WouldBlock => {
                    if lock(&self.state).sender.is_none() {
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
            let (Some(sender), Some(frame)) = (state.sender.clone(), state.queue.front().cloned()) else {
                if state.sender.is_none() {
                    return;
                }
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.sent += frame.bytes().len().div_ceil(PACKET) as u64;
            drop(state);
            let sent = frame.bytes().chunks(PACKET).try_for_each(|packet| self.send(&sender, packet));
            drop(sender);
            state = lock(&self.state);
            if sent.is_err() {
                return state.give_up();
            }
            state.queue.pop_front();
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends one packet, whole or not at all.
///
/// The socket raises SIGPIPE when the peer is dead, and a program that gave SIGPIPE back its default (many
/// command-line tools do) would end by it: it is blocked meanwhile, and taken away if it came.
pub(crate) fn send_packet(sender: &IpcBytesSender, packet: &[u8]) -> io::Result<()> {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let mut before = SigSet::empty();
    let blocked = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&pipe), Some(&mut before)).is_ok();
    let result = loop {
        match sender.send(packet) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    if blocked && !before.contains(Signal::SIGPIPE) {
        if result.is_err() {
            take_pending(pipe);
        }
        let _restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    result
}

/// Takes a pending SIGPIPE of this thread away; there may be none.
fn take_pending(pipe: SigSet) {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time are valid for the call; no information about the signal is asked for.
    unsafe { libc::sigtimedwait(pipe.as_ref(), std::ptr::null_mut(), &raw const now) };
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ipc_channel::ipc::{self, IpcSender};

    use super::super::door::Door;
    use super::super::greeting::{Greeting, Hello};
    use super::super::server::Server;
    use super::*;

    #[test]
    fn a_worker_that_says_it_took_what_it_did_not_holds_up_nobody_for_long() {
        // A channel whose sends end after 5 s.
        let server = Server::new().expect("a temporary folder");
        let door = Door::beside(server.path()).expect("room in it");
        let worker = IpcSender::<Greeting>::connect(door.path().to_owned()).expect("the door is open");
        let (to_worker, _never_read) = ipc::bytes_channel().expect("descriptors");
        let (wake, from_worker) = ipc::bytes_channel().expect("descriptors");
        let hello = Hello { version: 3, executable: "this".to_owned(), to_worker, from_worker, wake };
        worker.send(Greeting::Hello(hello)).expect("room in the socket");
        let _vetted = door.admit(&server, std::process::id()).expect("a greeting");
        let (_, Greeting::Hello(Hello { to_worker, .. })) = server.accept().expect("it was passed on");

        let (page, _stdin) = Page::create().expect("a page");
        let page = Arc::new(page);
        let mut outbox = Outbox::new(to_worker, Arc::clone(&page), true);
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
