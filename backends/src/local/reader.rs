//! The thread that listens to one worker: its greeting, its answers, and, once it is dead, what it had still sent.
//! What a worker sends is checked here and in `pool`; a worker that breaks the protocol is ended, the host goes on.

use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_channel::IpcError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer};
use log::Level;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::Record;
use super::door::{self, Door, Vetted};
use super::greeting::{Greeting, Hello};
use super::outbox::send_packet;
use super::pool::Shared;
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
            // accept() waits for ever for a process that died: come in its place. Where the reader is past
            // that, nobody listens there any more, and the reader looks for the death itself.
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

    fn is_closed(&self) -> bool {
        self.lock().death.is_some()
    }

    /// Waits for the death; gives up after `most`.
    fn wait(&self, most: Duration) -> Option<Death> {
        let waited = self.told.wait_timeout_while(self.lock(), most, |state| state.death.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.death.clone()
    }
}

/// Ends an `accept` for which nobody will come. Not by ipc-channel: it loses the descriptor where nobody listens.
fn come_and_go(server: &str) {
    let kind = SockFlag::SOCK_CLOEXEC;
    if let Ok(end) = socket(AddressFamily::Unix, SockType::SeqPacket, kind, None)
        && let Ok(address) = UnixAddr::new(server)
    {
        let _nobody = connect(end.as_raw_fd(), &address);
    }
}

/// Listens to the worker `id` until it is dead and all that it sent is dealt with.
pub(crate) fn listen(
    shared: &Shared,
    id: u64,
    name: &str,
    server: IpcOneShotServer<Greeting>,
    door: Option<(Door, String)>,
    gate: &Arc<Gate>,
) {
    // ipc-channel asserts where it should doubt: bytes that are not its own raise a panic in here.
    let listened = catch_unwind(AssertUnwindSafe(|| converse(shared, id, name, server, door, gate)));
    if listened.is_err() {
        shared.condemn(id, DeathCause::Protocol("its channel carries what no worker sends".to_owned()));
    }
    // A worker that closed its channel and lives on (it may have closed all it could) is of no use.
    let death = gate.wait(Duration::from_secs(1)).or_else(|| {
        shared.condemn(id, DeathCause::Protocol("it closed its channel".to_owned()));
        gate.wait(Duration::MAX)
    });
    if let Some(death) = death {
        shared.buried(id, death);
    }
}

/// From the greeting to the channel's end.
fn converse(
    shared: &Shared,
    id: u64,
    name: &str,
    server: IpcOneShotServer<Greeting>,
    door: Option<(Door, String)>,
    gate: &Arc<Gate>,
) {
    let vetted = match door.map(|(door, server)| door.admit(&server)).transpose() {
        Ok(vetted) => vetted,
        Err(why) => {
            if !gate.is_closed() {
                shared.condemn(id, DeathCause::Protocol(format!("its greeting could not be read: {why}")));
            }
            return;
        }
    };
    // Where this process has no descriptor left for the ends of the channels, the kernel leaves them out in silence, and
    // ipc-channel panics.
    let greeting = catch_unwind(AssertUnwindSafe(|| server.accept())).unwrap_or_else(|_| {
        Err(IpcError::Io(std::io::Error::other(
            "the channels that it brings are missing; has this process descriptors left?",
        )))
    });
    match greeting {
        Ok((_, Greeting::Hello(hello))) => {
            let Hello { version, executable, to_worker, from_worker, wake } = hello;
            let handle = vetted.as_ref().map(Vetted::handle).transpose();
            let (wake, source) = match (handle, vetted) {
                (Ok(Some(handle)), Some(vetted)) => (Wake::Channel(handle), Source::Stranger(vetted)),
                (Ok(_), _) => (Wake::Sender(wake), Source::Own(from_worker)),
                (Err(error), _) => {
                    return shared
                        .condemn(id, DeathCause::Protocol(format!("no descriptor is left: {error}")));
                }
            };
            gate.greeted(wake);
            match shared.greeted(id, version, &executable, to_worker) {
                Ok(()) => {
                    if let Err(broken) = receive(shared, id, name, source, gate) {
                        shared.condemn(id, DeathCause::Protocol(broken));
                    }
                }
                Err(cause) => shared.condemn(id, cause),
            }
        }
        Err(error) => {
            if !gate.is_closed() {
                shared.condemn(id, DeathCause::Protocol(format!("its greeting could not be read: {error}")));
            }
        }
    }
}

/// Takes frames until the end; an error says how the worker broke the protocol.
fn receive(shared: &Shared, id: u64, name: &str, mut source: Source, gate: &Gate) -> Result<(), String> {
    let mut assembler = Assembler::bounded(shared.options.answer);
    let mut logged = 0;
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
        if packet == END && gate.is_closed() {
            return Ok(());
        }
        let Some((mut header, frame)) = assembler.packet(packet)? else { continue };
        // Centuries would overflow where times are added up.
        header.wall = header.wall.min(LONGEST);
        header.cpu = header.cpu.min(LONGEST);
        match header.kind {
            Kind::Done => shared.done(id, &header, frame)?,
            Kind::Returned => shared.returned(id, &header)?,
            Kind::Refused => {
                let failure =
                    postcard::from_bytes(&frame[Header::LEN..]).map_err(|error| error.to_string())?;
                shared.refused(id, JobId(header.job), failure);
            }
            Kind::Log => {
                logged += frame.len() as u64;
                if let Some(limit) = shared.options.output.filter(|limit| logged > *limit) {
                    shared.condemn(id, DeathCause::OutputLimit(limit));
                    return Ok(());
                }
                pass_on(name, &frame[Header::LEN..])?;
            }
            Kind::Open | Kind::Batch | Kind::Recall | Kind::Close => {
                return Err(format!("{:?} is the host's to send", header.kind));
            }
        }
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
