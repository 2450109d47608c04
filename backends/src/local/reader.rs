//! The thread that listens to one worker: its greeting, its answers, and, once it is dead, what it had still sent.
//! What a worker sends is checked here and in `pool`; a worker that breaks the protocol is ended, the host goes on.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_channel::IpcError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender};
use log::Level;

use super::area::AREA;
use super::descendants;
use super::door::{self, Door, Vetted};
use super::greeting::{Greeting, Hello};
use super::news::Answer;
use super::outbox::send_packet;
use super::page::Page;
use super::pool::Shared;
use super::relay::LogRecord;
use super::server::{Server, come_and_go};
use super::{Record, Taken};
use crate::completion::{Death, DeathCause, ItemFailure};
use crate::job::JobId;
use crate::wire::{Assembler, Header, Kind};
use crate::{buffers, text};

/// What the supervisor and a reader know of each other: the death of the worker, and how to wake the reader.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    told: Condvar,
    /// Bytes that it has printed and logged.
    output: AtomicU64,
}

#[derive(Debug, Default)]
struct GateState {
    death: Option<Death>,
    wake: Option<Wake>,
    /// The reader is through, and only waits for the death.
    through: bool,
}

/// How the host ends its own listening, behind all that a dead worker has sent.
#[derive(Debug)]
enum Wake {
    /// By sending [`END`].
    Sender(IpcBytesSender),
    /// By the channel itself, where a stranger has made it: nothing is sent that it could hold up.
    Channel(OwnedFd),
}

impl Wake {
    fn wake(self) {
        match self {
            // Dropped behind it: where the worker has sent half a message, END would be taken for the other half, and
            // only the channel's end ends that.
            Wake::Sender(sender) => drop(send_packet(&sender, END)),
            Wake::Channel(receiver) => door::finish(&receiver),
        }
    }
}

/// Where a worker's packets come from.
enum Source {
    Own(IpcBytesReceiver),
    Stranger(Vetted),
}

/// Bytes of a job's refusal by a stranger's worker. Of the text less is kept.
const REFUSAL: u64 = 1 << 20;
/// What a frame of a stranger's worker may take in all: this long, and a second for each of these bytes.
const FRAME: Duration = Duration::from_secs(20);
const RATE: u64 = 1 << 20;
/// An answer waits so long for room in its budget.
const ROOM: Duration = Duration::from_secs(20);

/// Nanoseconds that a batch may claim to have taken: about 13 days.
const LONGEST: u64 = 1 << 50;

/// Sent by the host to itself behind everything that a dead worker has sent. It is listened to only once the
/// worker is known to be dead, so that a worker that sends it says nothing.
const END: &[u8] = b"fastmap: the worker is dead, and this is the end of what it sent";

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Supervisor: the worker is dead. `server` is where its greeting was awaited.
    pub(crate) fn close(&self, death: Death, server: &str) {
        let mut state = self.lock();
        state.death = Some(death);
        self.told.notify_all();
        match state.wake.take() {
            Some(wake) => wake.wake(),
            None if state.through => {}
            // accept() waits for ever for a process that died: come in its place. Where the reader is past
            // that, in this moment, nobody listens there any more, and the reader looks for the death itself.
            None => come_and_go(server),
        }
    }

    fn greeted(&self, wake: Wake) {
        let mut state = self.lock();
        if state.death.is_some() {
            wake.wake();
        } else {
            state.wake = Some(wake);
        }
    }

    fn pass(&self) {
        self.lock().through = true;
    }

    /// Counts what the worker has printed or logged; gives how much that is in all.
    pub(crate) fn count_output(&self, bytes: u64) -> u64 {
        self.output.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    fn is_closed(&self) -> bool {
        self.lock().death.is_some()
    }

    /// Waits for the death; gives up after `most`.
    fn wait(&self, most: Duration) -> Option<Death> {
        let waited = self.told.wait_timeout_while(self.lock(), most, |state| state.death.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.death.clone()
    }
}

/// The worker that a reader listens to, and where its news go.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) id: u64,
    pub(crate) name: &'a str,
    pub(crate) page: &'a Page,
    pub(crate) gate: &'a Gate,
    /// The process that was started for it.
    pub(crate) process: u32,
}

/// A frame of a stranger's worker that has begun.
#[derive(Debug)]
struct Begun {
    since: Instant,
    length: u64,
    /// What an answer may count.
    allowed: Option<u64>,
    /// What it takes of the budget.
    taken: Option<Taken>,
}

impl Begun {
    /// How long the next packet may take that is not here after `pause` at most.
    fn left(&self, pause: Duration) -> Duration {
        let whole = FRAME + Duration::from_secs(self.length / RATE);
        whole.saturating_sub(self.since.elapsed()).min(pause)
    }
}

/// Listens to a worker until it is dead and all that it sent is dealt with. It greets at `door`; what is
/// admitted goes on to `server`.
pub(crate) fn listen(peer: &Peer<'_>, server: Server, door: Door) {
    let socket = server.path().to_owned();
    // ipc-channel asserts where it should doubt: bytes that are not its own raise a panic in here.
    let listened = catch_unwind(AssertUnwindSafe(|| peer.converse(server, door)));
    if listened.is_err() {
        peer.condemn(DeathCause::Protocol("its channel carries what no worker sends".to_owned()));
    }
    peer.gate.pass();
    // A worker that closed its channel and lives on (it may have closed all it could) is of no use.
    let death = peer.gate.wait(Duration::from_secs(1)).or_else(|| {
        peer.condemn(DeathCause::Protocol("it closed its channel".to_owned()));
        peer.gate.wait(Duration::MAX)
    });
    if let Some(death) = death {
        // One that was asked to leave has ended what it had started.
        let left = death.cause == DeathCause::Exit(0) && peer.shared.is_asked_to_leave(peer.id);
        peer.shared.buried(peer.id, death);
        if !left && peer.shared.starts_processes() {
            descendants::end(&socket);
        }
    }
}

impl Peer<'_> {
    fn condemn(&self, cause: DeathCause) {
        self.shared.condemn(self.id, cause);
    }

    /// From the greeting to the channel's end.
    fn converse(&self, server: Server, door: Door) {
        let admitted = door.admit(&server, self.process);
        drop(door);
        let strict = self.shared.options.launcher.is_some();
        let vetted = match admitted {
            Ok(vetted) => strict.then_some(vetted),
            Err(why) => {
                if !self.gate.is_closed() {
                    self.condemn(DeathCause::Protocol(format!("its greeting could not be read: {why}")));
                }
                return;
            }
        };
        // Where this process has no descriptor left for the ends of the channels, the kernel leaves them out in
        // silence, and ipc-channel panics.
        let greeting = catch_unwind(AssertUnwindSafe(|| server.accept())).unwrap_or_else(|_| {
            Err(IpcError::Io(std::io::Error::other(
                "the channels that it brings are missing; has this process descriptors left?",
            )))
        });
        match greeting {
            Ok((met, Greeting::Hello(hello))) => {
                let Hello { version, executable, to_worker, from_worker, wake } = hello;
                let handle = vetted.as_ref().map(Vetted::handle).transpose();
                let (wake, source) = match (handle, vetted) {
                    (Ok(Some(handle)), Some(vetted)) => (Wake::Channel(handle), Source::Stranger(vetted)),
                    (Ok(_), _) => (Wake::Sender(wake), Source::Own(from_worker)),
                    (Err(error), _) => {
                        return self.condemn(DeathCause::Protocol(format!("no descriptor is left: {error}")));
                    }
                };
                self.gate.greeted(wake);
                match self.shared.greeted(self.id, version, &executable, to_worker) {
                    Ok(()) => {
                        self.shared.close_later(met);
                        if let Err(cause) = self.receive(source) {
                            self.condemn(cause);
                        }
                    }
                    Err(cause) => self.condemn(cause),
                }
            }
            Err(error) => {
                if !self.gate.is_closed() {
                    self.condemn(DeathCause::Protocol(format!("its greeting could not be read: {error}")));
                }
            }
        }
    }

    /// Takes frames until the end; an error says how the worker broke the protocol.
    fn receive(&self, mut source: Source) -> Result<(), DeathCause> {
        let options = &self.shared.options;
        let mut assembler = match source {
            Source::Own(_) => Assembler::bounded(options.answer),
            Source::Stranger(_) => Assembler::strict(options.answer),
        };
        let strict = matches!(source, Source::Stranger(_));
        let mut begun = None;
        loop {
            let packet = match &mut source {
                Source::Own(from_worker) => match from_worker.recv() {
                    Ok(packet) => packet,
                    Err(IpcError::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => return Ok(()),
                },
                Source::Stranger(vetted) => {
                    let within = begun.as_ref().map(|begun: &Begun| begun.left(options.unfinished));
                    match vetted.packet(within).map_err(DeathCause::Protocol)? {
                        Some(packet) => packet,
                        None => return Ok(()),
                    }
                }
            };
            if packet == END && self.gate.is_closed() {
                return Ok(());
            }
            let mut refused = None;
            let admit = |header: &Header| {
                if strict {
                    begun = Some(self.begin(header).map_err(|cause| {
                        refused = Some(cause);
                        String::new()
                    })?);
                }
                Ok(())
            };
            let whole = assembler.packet_if(packet, admit);
            let whole = whole.map_err(|broken| refused.unwrap_or(DeathCause::Protocol(broken)))?;
            let Some((header, frame)) = whole else { continue };
            self.frame(header, frame, begun.take())?;
        }
    }

    /// A frame of a stranger's worker begins: whether it may, and what it takes.
    fn begin(&self, header: &Header) -> Result<Begun, DeathCause> {
        let options = &self.shared.options;
        let broken = DeathCause::Protocol;
        let mut allowed = None;
        let most = match header.kind {
            Kind::Done => {
                let allowance = self.shared.allowance(self.id, header).map_err(broken)?;
                *allowed.insert(allowance)
            }
            // Bounded by what it may print.
            Kind::Log | Kind::Refusal => match options.output.filter(|limit| header.length > *limit) {
                Some(limit) => return Err(DeathCause::OutputLimit(limit)),
                None => u64::MAX,
            },
            Kind::Refused => REFUSAL,
            Kind::Returned | Kind::Open | Kind::Batch | Kind::Recall | Kind::Close => 0,
        };
        if header.length > most {
            return Err(broken(format!("{:?} with {} bytes, which is too much", header.kind, header.length)));
        }
        let bytes = Header::LEN as u64 + header.length;
        let taken = match &options.budget {
            None => None,
            Some(budget) => {
                let taken = budget.take(bytes, ROOM, &|| self.gate.is_closed());
                let full = || {
                    broken(format!(
                        "its answer of {bytes} bytes found no room within {ROOM:?}: answers of its account that have \
                         not been taken fill what there is for them"
                    ))
                };
                Some(taken.ok_or_else(full)?)
            }
        };
        Ok(Begun { since: Instant::now(), length: header.length, allowed, taken })
    }

    /// Deals with a whole frame.
    fn frame(&self, mut header: Header, frame: Vec<u8>, begun: Option<Begun>) -> Result<(), DeathCause> {
        // Centuries would overflow where times are added up.
        header.wall = header.wall.min(LONGEST);
        header.cpu = header.cpu.min(LONGEST);
        if matches!(header.kind, Kind::Log | Kind::Refusal) {
            let output = self.gate.count_output(frame.len() as u64);
            if let Some(limit) = self.shared.options.output.filter(|limit| output > *limit) {
                return Err(DeathCause::OutputLimit(limit));
            }
        }
        let strict = begun.is_some();
        let (allowed, taken) = begun.map_or((None, None), |begun| (begun.allowed, begun.taken));
        let dealt_with = match header.kind {
            Kind::Done => self.payload(&header, frame).and_then(|frame| {
                let answer = Answer { frame, allowed, taken };
                self.shared.done(self.id, &header, answer)
            }),
            Kind::Returned => self.shared.returned(self.id, &header),
            Kind::Refused => {
                let failure = postcard::from_bytes(&frame[Header::LEN..]).map_err(|error| error.to_string());
                failure.and_then(|failure: ItemFailure| {
                    let most = if strict { text::TAKEN } else { usize::MAX };
                    let message = text::cut(failure.message, most);
                    self.shared.refused(self.id, JobId(header.job), ItemFailure { message, ..failure })
                })
            }
            Kind::Log => self.pass_on(&frame[Header::LEN..]),
            Kind::Refusal => self.shared.refusal(self.id, &header, &frame[Header::LEN..]),
            Kind::Open | Kind::Batch | Kind::Recall | Kind::Close => {
                Err(format!("{:?} is the host's to send", header.kind))
            }
        };
        dealt_with.map_err(DeathCause::Protocol)
    }

    /// The frame with its payload behind the header, wherever that lies.
    fn payload(&self, header: &Header, frame: Vec<u8>) -> Result<Vec<u8>, String> {
        let Some((place, length)) = header.shared() else { return Ok(frame) };
        let mut whole = buffers::take(Header::LEN.saturating_add(length).min(Header::LEN + AREA));
        whole.extend_from_slice(&frame);
        if !self.page.copy_from_worker(place, length, &mut whole) {
            return Err(format!("an answer of {length} bytes at {place} of its memory"));
        }
        self.page.count_copied();
        Ok(whole)
    }

    /// Hands a worker's log record to the relay.
    fn pass_on(&self, payload: &[u8]) -> Result<(), String> {
        let record: Record = postcard::from_bytes(payload).map_err(|error| error.to_string())?;
        let level = Level::iter().find(|level| *level as usize == record.level);
        let record = LogRecord {
            level: level.ok_or("a log record of no level")?,
            target: &record.target,
            message: &record.message,
            module_path: record.module.as_deref(),
            file: record.file.as_deref(),
            line: record.line,
        };
        // A logger that panics loses its record; the worker has done nothing wrong.
        let relay = &self.shared.options.relay;
        let _lost = catch_unwind(AssertUnwindSafe(|| relay.record(self.name, &record)));
        Ok(())
    }
}
