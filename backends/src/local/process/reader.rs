//! The thread that listens to one worker: its handshake, its answers, and, once it is dead, what it had still sent.
//! What a worker sends is checked here and in `pool`; a worker that breaks the protocol is ended, the host goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::Level;

use crate::local::ipc::arena::AREA;
use crate::local::ipc::assembler::Assembler;
use crate::local::ipc::handshake::Handshake;
use crate::local::ipc::peer_credentials;
use crate::local::ipc::peer_credentials::ValidatedReceiver;
use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::output::pipe::{LogRecord, Stream};
use crate::local::output::quota::Quota;
use crate::local::pool::errands::ServedRendezvous;
use crate::local::pool::events::Answer;
use crate::local::pool::handle::PoolHandle;
use crate::local::process::descendants;
use crate::local::process::exit_latch::ExitLatch;
use crate::local::{Record, Taken};
use crate::model::death::ExitReason;
use crate::model::failure::ItemFailure;
use crate::model::frame::{HEADER, Header, Message as _, ToHost};
use crate::model::protocol_error::ProtocolError;
use crate::model::{buffer_pool, text};

/// Bytes of a job's refusal by a stranger's worker, and of its log record. Of the text less is kept.
const REFUSAL: u64 = 1 << 20;
/// Bytes of reports of refused calls that a stranger's worker may send in its life.
const REFUSED_CALLS: u64 = 1 << 20;
/// What a log record counts at least, where it is left out.
const RECORD: u64 = 4096;
/// What a frame of a stranger's worker may take in all: this long, and a second for each of these bytes.
const FRAME: Duration = Duration::from_secs(20);
const RATE: u64 = 1 << 20;
/// An answer waits so long for room in its budget.
const ROOM: Duration = Duration::from_secs(20);

/// The worker that a reader listens to, and where its news go.
#[derive(Debug)]
pub(crate) struct WorkerConnection<'a> {
    pub(crate) shared: &'a PoolHandle,
    pub(crate) id: u64,
    pub(crate) name: &'a str,
    pub(crate) page: &'a SharedPage,
    pub(crate) latch: &'a ExitLatch,
    /// The process that was started for it.
    pub(crate) process: u32,
}

/// A frame of a stranger's worker that has begun.
#[derive(Debug)]
struct Begun {
    since: Instant,
    length: u64,
    /// The most bytes that an answer may count; `None` for other frames.
    allowed: Option<u64>,
    /// What it takes of the budget.
    taken: Option<Taken>,
}

impl Begun {
    /// How long the next packet is waited for: for what is left of the frame's time, and `pause` at most.
    fn left(&self, pause: Duration) -> Duration {
        let whole = FRAME + Duration::from_secs(self.length / RATE);
        whole.saturating_sub(self.since.elapsed()).min(pause)
    }
}

/// Listens to a worker until it is dead and all that it sent is dealt with. It connects to `server`.
pub(crate) fn listen(peer: &WorkerConnection<'_>, server: Arc<Rendezvous>) {
    let socket = server.path().to_owned();
    // A panic in here is a fault of fastmap's own, which must not end in a wait.
    let listened = catch_unwind(AssertUnwindSafe(|| peer.serve(server)));
    if listened.is_err() {
        peer.end_for(ProtocolError::ReaderPanicked.into());
    }
    peer.latch.on_admitted();
    // A worker that closed its channel and lives on (it may have closed all it could) is of no use.
    let death = peer.latch.wait(Duration::from_secs(1)).or_else(|| {
        peer.end_for(ProtocolError::ClosedChannel.into());
        peer.latch.wait(Duration::MAX)
    });
    if let Some(death) = death {
        // One that was asked to leave has ended what it had started. Asked before the death is dealt with, which removes
        // the handle.
        let left = death.cause == ExitReason::Exit(0) && peer.shared.is_asked_to_leave(peer.id);
        peer.shared.on_exit(peer.id, death);
        // Behind it, because the map goes on with other workers while `/proc` is searched.
        if !left && peer.shared.starts_processes() {
            descendants::end(&socket);
        }
    }
}

impl WorkerConnection<'_> {
    fn end_for(&self, cause: ExitReason) {
        self.shared.end_for(self.id, cause);
    }

    /// From the handshake to the channel's end.
    fn serve(&self, server: Arc<Rendezvous>) {
        let jailed = self.shared.options.launcher.is_some();
        let admitted = peer_credentials::admit(&server, self.process, jailed);
        self.latch.on_admitted();
        let ValidatedReceiver { hello, connection } = match admitted {
            Ok(admitted) => admitted,
            Err(why) => {
                // Of a dead worker the exit says why it died; that it sent no handshake only follows from
                // that.
                if !self.latch.is_closed() {
                    self.end_for(why.into());
                }
                return;
            }
        };
        let Handshake { version, executable } = hello;
        // First of all: a batch may be waiting for this worker.
        let greeted = self.shared.on_connected(self.id, version, &executable);
        self.shared.close_later(ServedRendezvous { _server: server, _connection: connection });
        if let Err(cause) = greeted.and_then(|()| Ok(self.receive()?)) {
            self.end_for(cause);
        }
    }

    /// Takes frames until the end; an error says how the worker broke the protocol.
    fn receive(&self) -> Result<(), ProtocolError> {
        let options = &self.shared.options;
        let strict = options.launcher.is_some();
        let mut assembler = match strict {
            false => Assembler::bounded(options.answer),
            true => Assembler::strict(options.answer),
        };
        let mut buffer = Vec::new();
        let mut begun = None;
        loop {
            let within = begun.as_ref().map(|begun: &Begun| begun.left(options.unfinished));
            let packet = self.page.channel.packet(&mut buffer, within)?;
            // The worker has closed its end, or the supervisor has ended receiving here, behind what had arrived.
            let Some(packet) = packet else { return Ok(()) };
            let admit = |header: &Header<ToHost>| {
                if strict {
                    begun = Some(self.begin(header)?);
                }
                Ok(())
            };
            let Some((header, frame)) = assembler.packet_if(packet, admit)? else { continue };
            self.frame(header, frame, begun.take())?;
        }
    }

    /// A frame of a stranger's worker begins: checks that it may, and takes its bytes of the budget.
    ///
    /// # Errors
    /// If it answers no batch, is too long, or finds no room in the budget within [`ROOM`].
    fn begin(&self, header: &Header<ToHost>) -> Result<Begun, ProtocolError> {
        let options = &self.shared.options;
        let mut allowed = None;
        let most = match &header.message {
            ToHost::Done(done) => {
                *allowed.insert(self.shared.on_answer_begun(self.id, done.ticket, header.length)?)
            }
            ToHost::Log | ToHost::OpenFailed { .. } | ToHost::SandboxDenial { .. } => REFUSAL,
            ToHost::Returned { .. } => 0,
        };
        if header.length > most {
            return Err(ProtocolError::PayloadTooLong { kind: header.message.kind(), length: header.length });
        }
        // The length is checked before this: what is refused takes nothing of the budget.
        let length = (HEADER as u64).saturating_add(header.length);
        let taken = match &options.budget {
            None => None,
            Some(budget) => {
                // Not under the pool's lock: it waits for consumers of other answers. The death of the worker ends it.
                let taken = budget.take(length, ROOM, &|| self.latch.is_closed());
                Some(taken.ok_or(ProtocolError::NoRoom { length, within: ROOM })?)
            }
        };
        Ok(Begun { since: Instant::now(), length: header.length, allowed, taken })
    }

    /// Deals with a whole frame.
    fn frame(
        &self,
        header: Header<ToHost>,
        frame: Vec<u8>,
        begun: Option<Begun>,
    ) -> Result<(), ProtocolError> {
        let strict = begun.is_some();
        let (allowed, taken) = begun.map_or((None, None), |begun| (begun.allowed, begun.taken));
        match header.message {
            ToHost::Done(done) => {
                let frame = self.payload(&header, frame)?;
                self.shared.on_completed(self.id, &done, Answer { frame, allowed, taken })
            }
            ToHost::Returned { ticket, from } => self.shared.on_returned(self.id, ticket, from),
            ToHost::OpenFailed { job } => {
                let failure: ItemFailure = postcard::from_bytes(&frame[HEADER..])?;
                let most = if strict { text::TAKEN } else { usize::MAX };
                let message = text::cut(failure.message, most);
                self.shared.on_refused(self.id, job, ItemFailure { message, ..failure })
            }
            ToHost::Log if !self.admits(frame.len()) => Ok(()),
            ToHost::Log => self.pass_on(&frame[HEADER..]),
            ToHost::SandboxDenial { ticket } => {
                if strict {
                    let bytes = frame.len() as u64;
                    // Relaxed, because this thread alone counts: the atomic is for the reference that it
                    // shares with the supervisor.
                    if self.latch.refusals.fetch_add(bytes, Ordering::Relaxed) + bytes > REFUSED_CALLS {
                        return Err(ProtocolError::TooManyDenials { most: REFUSED_CALLS });
                    }
                }
                self.shared.on_denied(self.id, ticket, &frame[HEADER..])
            }
        }
    }

    /// The frame with its payload behind the header, wherever that lies.
    fn payload(&self, header: &Header<ToHost>, frame: Vec<u8>) -> Result<Vec<u8>, ProtocolError> {
        let Some((place, length)) = header.shared() else { return Ok(frame) };
        // The length is the worker's word until the copy below has checked it: no more than an area is
        // reserved for it.
        let mut whole = buffer_pool::take(HEADER.saturating_add(length).min(HEADER + AREA));
        whole.extend_from_slice(&frame);
        // Copied out before anything reads it: the worker can go on writing there.
        if !self.page.copy_from_worker(place, length, &mut whole) {
            return Err(ProtocolError::OutsideArena { place, length });
        }
        self.page.count_copied();
        Ok(whole)
    }

    /// Whether a log record of so many bytes is passed on. Behind one that is left out nothing is read for a
    /// moment.
    fn admits(&self, bytes: usize) -> bool {
        let Some(quota) = &self.latch.quota else { return true };
        if quota.admits(bytes, Instant::now()) {
            if let Some(notice) = quota.notice() {
                let relay = &self.shared.options.relay;
                let line = || relay.line(self.name, Stream::Stderr, &notice);
                let _lost = catch_unwind(AssertUnwindSafe(line));
            }
            return true;
        }
        // The end of the map waits for the line that says how many were left out.
        self.shared.output.keep(true);
        std::thread::sleep(Quota::pause((bytes as u64).max(RECORD)));
        false
    }

    /// Hands a worker's log record to the relay.
    fn pass_on(&self, payload: &[u8]) -> Result<(), ProtocolError> {
        let record: Record = postcard::from_bytes(payload)?;
        let level = Level::iter().find(|level| *level as usize == record.level);
        let record = LogRecord {
            level: level.ok_or(ProtocolError::NoLevel)?,
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
