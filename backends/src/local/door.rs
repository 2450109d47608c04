//! The host's end of the channel to a worker. Each worker greets at a door: its peer's user and process are
//! compared with those that the host has started, because the socket's folder may be open to others for a
//! moment, or for longer where the user's umask says so. The greeting is read here and handed on to
//! ipc-channel over a connection of the host's own.
//!
//! A worker may also be anybody's. ipc-channel takes its peer at its word: the length in a packet's head is
//! allocated, or subtracted from. Here a packet is first copied, then looked at, and only its content goes
//! on. The worker made the sockets and may hold more ends of them than it should: nothing is looked at in the
//! socket, and no send waits for ever. Used by `start` (makes the door) and `reader` (waits at it).

use std::fs::{self, Permissions};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recv, sendmsg, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::descriptors::{self, Received};
use super::greeting;
use super::server::{Server, turn_away};
use crate::wire::PACKET;

/// What stands before each packet of ipc-channel: its own length, and that of the message; native words.
const HEAD: usize = 16;
/// The version, an identity and three ends of channels take less than 200 bytes.
const GREETING: usize = 4096;
/// The ends that a greeting brings: the sender to the worker, the receiver of what it sends, and one to wake that.
const ENDS: usize = 3;
/// A worker takes what it is sent at once, whatever its function does. One that has not for so long is cut off.
const SEND_SECONDS: i64 = 5;
/// A peer that has connected and says nothing for so long is cut off, and the next one is heard.
const SILENT: Duration = Duration::from_secs(10);

/// Where a door in the folder of the socket `server` is.
pub(crate) fn path_beside(server: &str) -> String {
    let folder = server.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/door")
}

/// Where a worker knocks.
#[derive(Debug)]
pub(crate) struct Door {
    listener: OwnedFd,
    path: String,
    /// Its own socket; otherwise it is the server's.
    beside: bool,
}

/// Which peers are let in.
#[derive(Clone, Copy, Debug)]
enum Guest {
    /// The process that was started.
    Process(u32),
    /// Any of the user to whom the socket belongs: a jail has a user of its own, and processes of its own.
    User(u32),
}

impl Door {
    /// A door for workers that are trusted with nothing, in the folder of the socket `server`, which goes
    /// when that is answered.
    pub(crate) fn beside(server: &str) -> nix::Result<Door> {
        let path = path_beside(server);
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
        let closed = fs::set_permissions(&path, Permissions::from_mode(0o600));
        closed.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(Door { listener, path, beside: true })
    }

    /// A door for workers of this program: the server's own socket.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(crate) fn of(server: &Server) -> std::io::Result<Door> {
        Ok(Door { listener: server.listener()?, path: server.path().to_owned(), beside: false })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Waits for the greeting of the worker that was started as `process`, and passes it on to `server`,
    /// where ipc-channel reads it.
    ///
    /// # Errors
    /// In words, if what came is no greeting.
    pub(crate) fn admit(&self, server: &Server, process: u32) -> Result<Vetted, String> {
        let guest = match self.beside {
            true => Guest::User(fs::metadata(&self.path).map_err(|error| error.to_string())?.uid()),
            false => Guest::Process(process),
        };
        let worker = self.accept(guest, SILENT)?;
        let system = |error: Errno| error.to_string();
        let mut bytes = [0; GREETING];
        let (length, ends) = greeting(&worker, &mut bytes)?;
        let bytes = &bytes[..length];
        let content = content(bytes)?;
        let [sender, receiver, _] = ends.as_slice() else {
            return Err(format!("it brings {} ends of channels, not {ENDS}", ends.len()));
        };
        for end in &ends {
            let kind = getsockopt(end, sockopt::SockType).map_err(system)?;
            if kind != SockType::SeqPacket {
                return Err("it brings a socket of another kind".to_owned());
            }
        }
        greeting::check(content)?;
        if self.beside {
            setsockopt(sender, sockopt::SendTimeout, &TimeVal::seconds(SEND_SECONDS)).map_err(system)?;
        }
        let found = self.beside.then(|| server.listener()).transpose();
        let found = found.map_err(|error| error.to_string())?;
        turn_away(found.as_ref().unwrap_or(&self.listener)).map_err(|error| error.to_string())?;
        let host =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(system)?;
        connect(host.as_raw_fd(), &UnixAddr::new(server.path()).map_err(system)?).map_err(system)?;
        let numbers: Vec<RawFd> = ends.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(host.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(system)?;
        let receiver = receiver.try_clone().map_err(|error| error.to_string())?;
        Ok(Vetted { receiver, buffer: Vec::new() })
    }

    /// Waits for a connection of the guest's that says something. All others are closed.
    fn accept(&self, guest: Guest, silent: Duration) -> Result<OwnedFd, String> {
        loop {
            let peer = match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                // SAFETY: accept has just made it, and nobody else has it.
                Ok(peer) => unsafe { OwnedFd::from_raw_fd(peer) },
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(error) => return Err(error.to_string()),
            };
            let who = getsockopt(&peer, sockopt::PeerCredentials).map_err(|error| error.to_string())?;
            let known = match guest {
                Guest::Process(process) => {
                    who.uid() == nix::unistd::geteuid().as_raw() && who.pid() as u32 == process
                }
                Guest::User(user) => who.uid() == user,
            };
            if known {
                if wait(&peer, silent) {
                    return Ok(peer);
                }
                log::debug!("process {} connected to a worker's socket and said nothing", who.pid());
            } else if who.pid() as u32 == std::process::id() {
                return Err("the wait for it was ended".to_owned());
            } else {
                log::warn!(
                    "process {} of user {} connected to a worker's socket, and was cut off",
                    who.pid(),
                    who.uid()
                );
            }
        }
    }
}

/// Waits until there is something to be read, or the other end is closed; false if neither came within
/// `most`.
fn wait(socket: &OwnedFd, most: Duration) -> bool {
    let deadline = Instant::now() + most;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            PollTimeout::try_from(left.as_micros().div_ceil(1000) as u32).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) => return false,
            // What is wrong with it the next call says.
            _ => return true,
        }
    }
}

/// Takes the first packet with the descriptors that it brings.
fn greeting(worker: &OwnedFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), String> {
    let Received { length, files, cut } =
        descriptors::receive(worker, bytes).map_err(|error| error.to_string())?;
    if files.len() > ENDS {
        return Err(format!("it brings {} ends of channels, not {ENDS}", files.len()));
    }
    if cut {
        let why =
            "it is longer than any greeting, or not all of it has come (has this process descriptors left?)";
        return Err(why.to_owned());
    }
    Ok((length, files))
}

/// What a packet carries, if its head says the truth about it.
fn content(packet: &[u8]) -> Result<&[u8], String> {
    let wrong = || format!("a packet of {} bytes whose head does not fit it", packet.len());
    let (head, content) = packet.split_at_checked(HEAD).ok_or_else(wrong)?;
    let word = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let fits = word(0) == packet.len() as u64 && word(8) == content.len() as u64;
    fits.then_some(content).ok_or_else(wrong)
}

/// The receiving end of what such a worker sends.
#[derive(Debug)]
pub(crate) struct Vetted {
    receiver: OwnedFd,
    buffer: Vec<u8>,
}

impl Vetted {
    /// A second hand on it, to end it by.
    pub(crate) fn handle(&self) -> std::io::Result<OwnedFd> {
        self.receiver.try_clone()
    }

    /// The next packet's content; `None` at the end. `within`: something must have come by then.
    ///
    /// # Errors
    /// In words, if it is none of ipc-channel's, or longer than a worker sends, or comes too late.
    pub(crate) fn packet(&mut self, within: Option<Duration>) -> Result<Option<Vec<u8>>, String> {
        self.buffer.resize(HEAD + PACKET, 0);
        if let Some(within) = within
            && !wait(&self.receiver, within)
        {
            return Err(format!("it began a frame and sent nothing more of it for {within:?}"));
        }
        loop {
            // The true length, however much of it fits. Descriptors that come along are dropped by the kernel.
            match recv(self.receiver.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(0) => return Ok(None),
                Ok(length) if length <= self.buffer.len() => {
                    return content(&self.buffer[..length]).map(|content| Some(content.to_vec()));
                }
                Ok(length) => return Err(format!("a packet of {length} bytes")),
                Err(Errno::EINTR) => {}
                Err(_) => return Ok(None),
            }
        }
    }
}

/// Ends a channel's receiving behind what is in it: the worker is dead, and who else may hold its sending end is of no
/// interest.
pub(crate) fn finish(receiver: &OwnedFd) {
    let _ended = shutdown(receiver.as_raw_fd(), Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcSender};
    use nix::sys::socket::socketpair;

    use super::super::greeting::{Greeting, Hello};
    use std::path::Path;

    use super::*;
    use crate::wire::VERSION;

    /// This very process is the worker.
    fn greet_as_our_own(
        door: &Door,
        to_worker: IpcBytesSender,
        from_worker: IpcBytesReceiver,
        wake: IpcBytesSender,
    ) {
        let worker = IpcSender::<Greeting>::connect(door.path().to_owned()).expect("the door is open");
        let executable = "this".to_owned();
        let hello = Hello { version: VERSION, executable, to_worker, from_worker, wake };
        worker.send(Greeting::Hello(hello)).expect("room in the socket");
    }

    #[test]
    fn a_true_greeting_gets_through_and_packets_arrive_as_ipc_channel_sent_them() {
        for beside in [true, false] {
            let server = Server::new().expect("a temporary folder");
            let door = match beside {
                true => Door::beside(server.path()).expect("room in it"),
                false => Door::of(&server).expect("a descriptor"),
            };
            let (to_worker, frames) = ipc::bytes_channel().expect("descriptors");
            let (results, from_worker) = ipc::bytes_channel().expect("descriptors");
            greet_as_our_own(&door, to_worker, from_worker, results.clone());
            let mut vetted = door.admit(&server, std::process::id()).expect("a greeting");
            let (_, Greeting::Hello(Hello { to_worker, .. })) = server.accept().expect("it was passed on");
            to_worker.send(b"work").expect("room in the socket");
            assert_eq!(frames.recv().expect("it came"), b"work");
            for packet in [b"answer".to_vec(), vec![7; PACKET], Vec::new()] {
                results.send(&packet).expect("room in the socket");
                assert_eq!(vetted.packet(None), Ok(Some(packet)));
            }
            let late = vetted.packet(Some(Duration::from_millis(1))).expect_err("nothing more comes");
            assert!(late.contains("sent nothing more"), "{late}");
            results.send(b"last words").expect("room in the socket");
            // Somebody keeps the sending end; the worker is dead.
            finish(&vetted.handle().expect("a descriptor"));
            assert_eq!(vetted.packet(None).expect("a packet").as_deref(), Some(&b"last words"[..]));
            assert_eq!(vetted.packet(None), Ok(None));
        }
    }

    #[test]
    fn a_send_that_is_never_taken_ends() {
        let server = Server::new().expect("a temporary folder");
        let door = Door::beside(server.path()).expect("room in it");
        let (to_worker, _never_read) = ipc::bytes_channel().expect("descriptors");
        let (results, from_worker) = ipc::bytes_channel().expect("descriptors");
        greet_as_our_own(&door, to_worker, from_worker, results);
        door.admit(&server, std::process::id()).expect("a greeting");
        let (_, Greeting::Hello(Hello { to_worker, .. })) = server.accept().expect("it was passed on");
        let started = Instant::now();
        let packet = vec![0; PACKET];
        let refused = (0..100).find_map(|_| to_worker.send(&packet).err());
        assert!(refused.is_some());
        assert!(started.elapsed().as_secs() < 4 * SEND_SECONDS as u64, "{:?}", started.elapsed());
    }

    fn knock(door: &Door) -> OwnedFd {
        let peer = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
        let peer = peer.expect("a descriptor");
        connect(peer.as_raw_fd(), &UnixAddr::new(door.path()).expect("a short path")).expect("it is open");
        peer
    }

    #[test]
    fn a_peer_that_says_nothing_is_cut_off_and_the_next_one_is_heard() {
        let server = Server::new().expect("a temporary folder");
        let door = Door::beside(server.path()).expect("room in it");
        let guest = Guest::User(nix::unistd::geteuid().as_raw());
        let silent = knock(&door);
        let worker = knock(&door);
        sendmsg::<()>(worker.as_raw_fd(), &[IoSlice::new(b"hello")], &[], MsgFlags::empty(), None)
            .expect("room");
        let heard = door.accept(guest, Duration::from_millis(1)).expect("the second");
        let mut bytes = [0; 9];
        assert_eq!(descriptors::receive(&heard, &mut bytes).expect("it is there").length, 5);
        assert!(is_closed(&silent));
    }

    #[test]
    fn another_process_or_user_is_cut_off() {
        let server = Server::new().expect("a temporary folder");
        let door = Door::beside(server.path()).expect("room in it");
        let own = std::process::id();
        for guest in [Guest::Process(own + 1), Guest::User(nix::unistd::geteuid().as_raw() + 1)] {
            let stranger = knock(&door);
            // This process itself comes to end a wait.
            assert!(door.accept(guest, SILENT).is_err(), "{guest:?}");
            assert!(is_closed(&stranger));
        }
    }

    #[test]
    fn sockets_and_their_folder_are_the_owners_whatever_the_umask() {
        // The umask is the process's: it is set in one of its own, by the same calls.
        let server = Server::new().expect("a temporary folder");
        let folder = Path::new(server.path()).parent().expect("a folder").to_owned();
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!((mode(&folder), mode(Path::new(server.path()))), (0o700, 0o600));
        let door = Door::beside(server.path()).expect("room in it");
        assert_eq!((mode(&folder), mode(Path::new(door.path()))), (0o700, 0o600));
    }

    /// Sends `content` as a greeting that brings one end of each of `ends` pairs; gives the other ends.
    fn greet(door: &Door, content: &[u8], ends: usize) -> (OwnedFd, Vec<OwnedFd>) {
        let worker = knock(door);
        let pairs = (0..ends).map(|_| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair")
        });
        let (kept, sent): (Vec<OwnedFd>, Vec<OwnedFd>) = pairs.unzip();
        let length = content.len() as u64;
        let packet = [&(length + 16).to_ne_bytes(), &length.to_ne_bytes(), content].concat();
        let numbers: Vec<RawFd> = sent.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(worker.as_raw_fd(), &[IoSlice::new(&packet)], &rights, MsgFlags::MSG_NOSIGNAL, None)
            .expect("room in the socket");
        (worker, kept)
    }

    /// Whether nobody holds the other end.
    fn is_closed(end: &OwnedFd) -> bool {
        recv(end.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) == Ok(0)
    }

    #[test]
    fn descriptors_of_a_refused_greeting_are_closed_however_many_they_are() {
        let server = Server::new().expect("a temporary folder");
        for ends in [0, 1, 2, 3, 4, 5, 64, 253] {
            let door = Door::beside(server.path()).expect("room in it");
            let (_worker, kept) = greet(&door, b"a greeting", ends);
            let refused = door.admit(&server, std::process::id()).expect_err("it is no greeting");
            assert!(kept.iter().all(is_closed), "{ends} ends: {refused}");
            drop(fs::remove_file(door.path()));
        }
    }

    #[test]
    fn heads_that_lie_are_refused() {
        let head = |own: u64, message: u64| [own.to_ne_bytes(), message.to_ne_bytes()].concat();
        for lie in [vec![], vec![8; 8], head(8, 0), head(16, 1), head(17, 0), head(16, u64::MAX)] {
            assert!(content(&lie).is_err(), "{lie:?}");
        }
        assert_eq!(content(&head(16, 0)), Ok(&[][..]));
    }
}
