//! The thread that listens to one worker: its greeting, its answers, and, once it is dead, what it had still sent.
//! What a worker sends is checked here and in `pool`; a worker that breaks the protocol is ended, the host goes on.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_channel::IpcError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender};
use log::Level;

use super::Record;
use super::area::AREA;
use super::door::{self, Door, Vetted};
use super::greeting::{Greeting, Hello};
use super::outbox::send_packet;
use super::page::Page;
use super::pool::Shared;
use super::server::{Server, come_and_go};
use crate::buffers;
use crate::completion::{Death, DeathCause};
use crate::job::JobId;
use crate::wire::{Assembler, Header, Kind};

/// What the supervisor and a reader know of each other: the death of the worker, and how to wake the reader.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    told: Condvar,
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
}

/// Listens to a worker until it is dead and all that it sent is dealt with. `door`: it may be anybody's, and knocks
/// there; what is admitted goes on to `server`.
pub(crate) fn listen(peer: &Peer<'_>, server: Server, door: Option<Door>) {
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
        peer.shared.buried(peer.id, death);
    }
}

impl Peer<'_> {
    fn condemn(&self, cause: DeathCause) {
        self.shared.condemn(self.id, cause);
    }

    /// From the greeting to the channel's end.
    fn converse(&self, server: Server, door: Option<Door>) {
        let vetted = match door.map(|door| door.admit(server.path())).transpose() {
            Ok(vetted) => vetted,
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
                        if let Err(broken) = self.receive(source) {
                            self.condemn(DeathCause::Protocol(broken));
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
    fn receive(&self, mut source: Source) -> Result<(), String> {
        let mut assembler = Assembler::bounded(self.shared.options.answer);
        let mut said = 0;
        loop {
            let packet = match &mut source {
                Source::Own(from_worker) => match from_worker.recv() {
                    Ok(packet) => packet,
                    Err(IpcError::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => return Ok(()),
                },
                Source::Stranger(vetted) => match vetted.packet()? {
                    Some(packet) => packet,
                    None => return Ok(()),
                },
            };
            if packet == END && self.gate.is_closed() {
                return Ok(());
            }
            let Some((mut header, frame)) = assembler.packet(packet)? else { continue };
            // Centuries would overflow where times are added up.
            header.wall = header.wall.min(LONGEST);
            header.cpu = header.cpu.min(LONGEST);
            if matches!(header.kind, Kind::Log | Kind::Refusal) {
                said += frame.len() as u64;
                if let Some(limit) = self.shared.options.output.filter(|limit| said > *limit) {
                    self.condemn(DeathCause::OutputLimit(limit));
                    return Ok(());
                }
            }
            match header.kind {
                Kind::Done => self.shared.done(self.id, &header, self.payload(&header, frame)?)?,
                Kind::Returned => self.shared.returned(self.id, &header)?,
                Kind::Refused => {
                    let failure =
                        postcard::from_bytes(&frame[Header::LEN..]).map_err(|error| error.to_string())?;
                    self.shared.refused(self.id, JobId(header.job), failure)?;
                }
                Kind::Log => pass_on(self.name, &frame[Header::LEN..])?,
                Kind::Refusal => self.shared.refusal(self.id, &header, &frame[Header::LEN..]),
                Kind::Open | Kind::Batch | Kind::Recall | Kind::Close => {
                    return Err(format!("{:?} is the host's to send", header.kind));
                }
            }
        }
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
}

/// Hands a worker's log record to the host's logger, with the worker's name before the message.
fn pass_on(name: &str, payload: &[u8]) -> Result<(), String> {
    let record: Record = postcard::from_bytes(payload).map_err(|error| error.to_string())?;
    let level =
        Level::iter().find(|level| *level as usize == record.level).ok_or("a log record of no level")?;
    if level > log::max_level() {
        return Ok(());
    }
    // A logger that panics loses its record; the worker has done nothing wrong.
    let _lost = catch_unwind(AssertUnwindSafe(|| {
        log::logger().log(
            &log::Record::builder()
                .level(level)
                .target(&record.target)
                .module_path(record.module.as_deref())
                .file(record.file.as_deref())
                .line(record.line)
                .args(format_args!("[{name}] {}", record.message))
                .build(),
        );
    }));
    Ok(())
}
