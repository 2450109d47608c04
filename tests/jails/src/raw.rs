//! A worker written by hand: it reports for duty as a fastmap program does, and breaks the protocol in
//! whatever way its context says. What the library would never send, a program of a stranger may.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use fastmap::backends::{Backend, BatchBuilder, BatchId, Context, FunctionId, Job, JobId, Local, Run};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, sendmsg, socket,
};
use serde::{Deserialize, Serialize};

/// The environment variable that marks a worker.
const MARKER: &str = "FASTMAP_WORKER";
/// Bytes of a frame's header, of a packet's head, and of a packet's content at most.
const HEADER: usize = 72;
const HEAD: usize = 16;
const PACKET: usize = 200 * 1024;

/// Kinds of frames.
const OPEN: u32 = 1;
const BATCH: u32 = 2;
const DONE: u32 = 5;
const RETURNED: u32 = 6;
const REFUSED: u32 = 7;
const LOG: u32 = 8;

/// A way to hurt the host, once the worker has reported for duty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// None: each batch is answered by results of one byte.
    Honest,
    /// A batch is answered by a payload of so many bytes, whatever was granted.
    Excess(u64),
    /// A frame of `announced` bytes is begun, `sent` of them are sent, and no more.
    Unfinished {
        /// Bytes that its header says.
        announced: u64,
        /// Bytes that follow.
        sent: u64,
    },
    /// A batch is answered item by item, as if the rest had been given back.
    OneByOne,
    /// Answers to no batch, of no items, without end.
    EmptyAnswers,
    /// Items of no batch are given back, without end.
    GiveBacks,
    /// Jobs that it was not given are refused, without end.
    Refusals,
    /// The job is refused with so many bytes of text.
    Refuse(u64),
    /// An item fails with so many bytes of text.
    Failure(u64),
    /// A batch is answered by so many failures without a text.
    Failures(u32),
    /// A log record, and then an honest answer.
    Log {
        /// Its target.
        target: String,
        /// Its message.
        message: String,
    },
}

/// A way to hurt the host by the greeting itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greet {
    /// As our own workers do.
    Honest,
    /// With so many descriptors.
    Ends(usize),
    /// With more bytes than a greeting has.
    Beyond,
}

/// The function that runs of such a program name: no descriptor stands behind it.
pub fn function() -> FunctionId {
    FunctionId { offset: 0, name: "raw".to_owned() }
}

/// The context that has a worker do so.
///
/// # Panics
/// Never: an act can be written.
pub fn context(act: &Act) -> Vec<u8> {
    postcard::to_stdvec(act).expect("an act can be written")
}

/// A run of such a program on a pool whose workers are it, with its job's name.
///
/// # Panics
/// If the pool takes no run.
pub fn run(local: &Local, act: &Act) -> (JobId, Box<dyn Run>) {
    let job = Job {
        id: JobId::next(),
        function: function(),
        context: Context::from(context(act)),
        label: None,
        items: None,
        item_timeout: None,
        fail_fast: false,
        cancel_running: true,
    };
    (job.id, local.open(Arc::new(job)).expect("a pool that is open"))
}

/// Hands in a batch of `items` items of one byte, granted `credit` bytes of results.
///
/// # Panics
/// If there is no place for it.
pub fn submit(run: &mut dyn Run, job: JobId, id: u64, items: u32, credit: u64) {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().extend(std::iter::repeat_n(0, items as usize));
    builder.added(items);
    run.submit(builder.finish(job, BatchId(id), 0, credit)).expect("a place for it");
}

#[derive(Serialize)]
enum Greeting {
    Hello { version: u32, executable: String },
}

/// Becomes such a worker, if this process was started as one; then never returns.
pub fn enter(greet: Greet) {
    let Ok(marker) = std::env::var(MARKER) else { return };
    let words: Vec<&str> = marker.splitn(6, ' ').collect();
    let [version, _, _, _, _, server] = words[..] else { exit(113) };
    let worker = version.parse().ok().and_then(|version| Worker::report(version, server, greet));
    match worker {
        Some(worker) => worker.work(),
        None => exit(113),
    }
}

struct Worker {
    /// Frames come and go by it.
    channel: RawFd,
}

impl Worker {
    fn report(version: u32, server: &str, greet: Greet) -> Option<Worker> {
        let host = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
        connect(host.as_raw_fd(), &UnixAddr::new(server).ok()?).ok()?;
        let hello = Greeting::Hello { version, executable: fastmap::backends::identity().to_owned() };
        let mut content = postcard::to_stdvec(&hello).ok()?;
        if greet == Greet::Beyond {
            content.extend([0; 100]);
        }
        let ends: Vec<RawFd> = match greet {
            Greet::Ends(count) => vec![host.as_raw_fd(); count],
            _ => Vec::new(),
        };
        let rights = [ControlMessage::ScmRights(&ends)];
        let rights: &[ControlMessage<'_>] = if ends.is_empty() { &[] } else { &rights };
        let packet = packet(&content);
        sendmsg::<()>(host.as_raw_fd(), &[IoSlice::new(&packet)], rights, MsgFlags::MSG_NOSIGNAL, None)
            .ok()?;
        // Standard input. Its first packet brings the page, which is of no use here.
        fcntl(std::io::stdin(), FcntlArg::F_SETFL(OFlag::empty())).ok()?;
        Some(Worker { channel: 0 })
    }

    /// Takes frames until the host ends the channel.
    fn work(self) -> ! {
        let mut act = Act::Honest;
        let mut missing = 0;
        while let Some(frame) = receive(self.channel) {
            let word = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
            let long = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
            if missing > 0 || frame.len() < HEADER {
                missing -= frame.len().min(missing);
                continue;
            }
            let length = if long(64) == 0 { long(32) as usize } else { 0 };
            missing = (HEADER + length).saturating_sub(frame.len());
            match word(0) {
                OPEN => {
                    let context = frame.get(HEADER + word(28) as usize..).unwrap_or_default();
                    act = postcard::from_bytes(context).unwrap_or(Act::Honest);
                }
                BATCH => self.answer(&act, word(4), long(8), long(16)),
                _ => {}
            }
        }
        exit(0)
    }

    fn answer(&self, act: &Act, items: u32, job: u64, batch: u64) {
        let done = |items: u32, credit: u64, payload: &[u8]| {
            self.send(&frame(DONE, items, job, batch, credit, payload));
        };
        match act {
            Act::Honest => done(items, 0, &vec![0; items as usize]),
            Act::Excess(bytes) => {
                done(items, 0, &vec![0; usize::try_from(*bytes).expect("it fits the memory")]);
            }
            Act::Unfinished { announced, sent } => {
                let mut head = frame(DONE, items, job, batch, 0, &[]);
                head[32..40].copy_from_slice(&announced.to_le_bytes());
                head.resize(PACKET, 0);
                self.send(&head);
                let rest = vec![0; PACKET];
                (0..sent / PACKET as u64).for_each(|_| self.send(&rest));
                wait();
            }
            Act::OneByOne => done(1, 0, &[0]),
            Act::EmptyAnswers => loop {
                self.send(&frame(DONE, 0, job, u64::MAX, 0, &[]));
            },
            Act::GiveBacks => loop {
                self.send(&frame(RETURNED, 0, job, u64::MAX, 0, &[]));
            },
            Act::Refusals => {
                let failure = failure(0, 0);
                loop {
                    self.send(&frame(REFUSED, 0, u64::MAX, 0, 0, &failure));
                }
            }
            Act::Refuse(bytes) => self.send(&frame(REFUSED, 0, job, 0, 0, &failure(0, *bytes))),
            Act::Failure(bytes) => {
                let failures = [vec![1], failure(0, *bytes)].concat();
                done(1, failures.len() as u64, &failures);
            }
            Act::Failures(count) => {
                let mut failures = postcard::to_stdvec(count).expect("a number can be written");
                (0..*count).for_each(|offset| failures.extend(failure(offset, 0)));
                done(items, failures.len() as u64, &failures);
            }
            Act::Log { target, message } => {
                self.send(&frame(LOG, 0, 0, 0, 0, &record(target, message)));
                done(items, 0, &vec![0; items as usize]);
            }
        }
    }

    /// Sends a frame, in packets; ends where the host listens no more.
    fn send(&self, frame: &[u8]) {
        for part in frame.chunks(PACKET) {
            let packet = packet(part);
            let none: [ControlMessage<'_>; 0] = [];
            let flags = MsgFlags::MSG_NOSIGNAL;
            if sendmsg::<()>(self.channel, &[IoSlice::new(&packet)], &none, flags, None).is_err() {
                wait();
            }
        }
    }
}

/// Waits to be ended.
fn wait() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// The next packet's content.
fn receive(socket: RawFd) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD + PACKET];
    let length =
        recvmsg::<()>(socket, &mut [IoSliceMut::new(&mut bytes)], None, MsgFlags::empty()).ok()?.bytes;
    bytes.truncate(length);
    (length >= HEAD).then(|| bytes.split_off(HEAD))
}

/// A packet as a worker sends it: its own length, that of its content, the content.
fn packet(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u64;
    [&(length + HEAD as u64).to_ne_bytes(), &length.to_ne_bytes(), content].concat()
}

fn frame(kind: u32, items: u32, job: u64, batch: u64, credit: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame[..4].copy_from_slice(&kind.to_le_bytes());
    frame[4..8].copy_from_slice(&items.to_le_bytes());
    frame[8..16].copy_from_slice(&job.to_le_bytes());
    frame[16..24].copy_from_slice(&batch.to_le_bytes());
    frame[32..40].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    frame[40..48].copy_from_slice(&credit.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A panic of the item at `offset`, with so many bytes of text.
fn failure(offset: u32, bytes: u64) -> Vec<u8> {
    let text = "x".repeat(usize::try_from(bytes).expect("it fits the memory"));
    postcard::to_stdvec(&(offset, 0u32, text)).expect("it can be written")
}

fn record(target: &str, message: &str) -> Vec<u8> {
    let nothing: (Option<String>, Option<String>, Option<u32>) = (None, None, None);
    postcard::to_stdvec(&(3u64, target, message, nothing)).expect("it can be written")
}
