//! Accepts the connection of a worker that was started. Its peer's user and process are compared with those
//! that the host has started, because the socket's folder may be open to others where a jail's user has to
//! reach it. Used by `reader`.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4, getsockopt, sockopt};

use crate::local::ipc::channel::{content, wait};
use crate::local::ipc::handshake;
use crate::local::ipc::handshake::{Handshake, HandshakeError};
use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::process::descriptors;
use crate::local::process::descriptors::{Received, above_standard};

/// The version and an identity take less than 200 bytes.
const GREETING: usize = 4096;
/// A peer that has connected and says nothing for so long is cut off, and the next one is heard.
const SILENT: Duration = Duration::from_secs(10);

/// Which peers are let in.
#[derive(Clone, Copy, Debug)]
enum Guest {
    /// The process that was started.
    Process(u32),
    /// Any of the user to whom the socket belongs: a jail has a user of its own, and processes of its own.
    User(u32),
}

/// A worker that has connected.
#[derive(Debug)]
pub(crate) struct ValidatedReceiver {
    pub(crate) hello: Handshake,
    /// The connection that it has connected by.
    pub(crate) connection: OwnedFd,
}

/// Waits for the handshake of the worker that was started as `process`; of a jailed one, by the user of its jail.
///
/// # Errors
/// If what came is not a handshake.
pub(crate) fn admit(
    server: &Rendezvous,
    process: u32,
    jailed: bool,
) -> Result<ValidatedReceiver, HandshakeError> {
    let guest = match jailed {
        true => Guest::User(fs::metadata(server.path())?.uid()),
        false => Guest::Process(process),
    };
    let connection = accept(server, guest, SILENT)?;
    // Received by this process itself: ipc-channel would index descriptors that the kernel has left out, and
    // panic.
    let mut bytes = [0; GREETING];
    let Received { length, files, cut } = descriptors::receive(&connection, &mut bytes)?;
    if !files.is_empty() {
        return Err(HandshakeError::Descriptors(files.len()));
    }
    if cut {
        return Err(HandshakeError::Cut);
    }
    let hello = handshake::read(content(&bytes[..length])?)?;
    Ok(ValidatedReceiver { hello, connection })
}

/// Waits for a connection of the guest's that says something. All others are closed.
fn accept(server: &Rendezvous, guest: Guest, silent: Duration) -> Result<OwnedFd, HandshakeError> {
    loop {
        let peer = match accept4(server.listener().as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept has just made it, and nothing else has it.
            Ok(peer) => unsafe { OwnedFd::from_raw_fd(peer) },
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            // The socket was shut down, because the worker is dead: see `Rendezvous::end`.
            Err(Errno::EINVAL) => return Err(HandshakeError::Ended),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let peer = above_standard(peer)?;
        // Of the moment of its connect, as the kernel noted them: another process that gets the number later is not let in.
        let who = getsockopt(&peer, sockopt::PeerCredentials).map_err(io::Error::from)?;
        let known = match guest {
            Guest::Process(process) => {
                who.uid() == nix::unistd::geteuid().as_raw() && who.pid() as u32 == process
            }
            Guest::User(user) => who.uid() == user,
        };
        if known {
            // One after the other: a peer that says nothing delays the worker by this time, and is then cut
            // off.
            if wait(&peer, silent) {
                return Ok(peer);
            }
            log::debug!("process {} connected to a worker's socket and said nothing", who.pid());
        } else {
            log::warn!(
                "process {} of user {} connected to a worker's socket, and was cut off",
                who.pid(),
                who.uid()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::RawFd;

    use ipc_channel::ipc::IpcSender;
    use nix::sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockType, UnixAddr, connect, recv, sendmsg, socket,
        socketpair,
    };

    use super::*;
    use crate::local::ipc::handshake::Greeting;
    use crate::model::frame::VERSION;

    fn server() -> Rendezvous {
        Rendezvous::new().expect("a temporary folder")
    }

    #[test]
    fn a_greeting_by_ipc_channel_is_read() {
        for jailed in [true, false] {
            let server = server();
            // This very process is the worker.
            let worker = IpcSender::<Greeting>::connect(server.path().to_owned()).expect("the door is open");
            let hello = || Handshake { version: VERSION, executable: "this".to_owned() };
            worker.send(Greeting::Hello(hello())).expect("room in the socket");
            let admitted = admit(&server, std::process::id(), jailed).expect("a greeting");
            assert_eq!(admitted.hello, hello());
        }
    }

    fn knock(server: &Rendezvous) -> OwnedFd {
        let peer = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
        let peer = peer.expect("a descriptor");
        connect(peer.as_raw_fd(), &UnixAddr::new(server.path()).expect("a short path")).expect("it is open");
        peer
    }

    #[test]
    fn a_peer_that_says_nothing_is_cut_off_and_the_next_one_is_heard() {
        let server = server();
        let guest = Guest::User(nix::unistd::geteuid().as_raw());
        let silent = knock(&server);
        let worker = knock(&server);
        sendmsg::<()>(worker.as_raw_fd(), &[IoSlice::new(b"hello")], &[], MsgFlags::empty(), None)
            .expect("room");
        let heard = accept(&server, guest, Duration::from_millis(1)).expect("the second");
        let mut bytes = [0; 9];
        assert_eq!(descriptors::receive(&heard, &mut bytes).expect("it is there").length, 5);
        assert!(is_closed(&silent));
    }

    #[test]
    fn another_process_or_user_is_cut_off() {
        let own = std::process::id();
        for guest in [Guest::Process(own + 1), Guest::User(nix::unistd::geteuid().as_raw() + 1)] {
            let server = std::sync::Arc::new(server());
            let stranger = knock(&server);
            let waited = std::sync::Arc::clone(&server);
            let waiting = std::thread::spawn(move || accept(&waited, guest, SILENT).is_err());
            // Waits for the other end's close.
            assert_eq!(recv(stranger.as_raw_fd(), &mut [0], MsgFlags::empty()), Ok(0), "{guest:?}");
            assert!(!waiting.is_finished(), "{guest:?}");
            server.end();
            assert!(waiting.join().expect("no panic"), "{guest:?}");
        }
    }

    /// Sends `content` as a handshake that brings one end of each of `ends` pairs; gives the other ends.
    fn greet(server: &Rendezvous, content: &[u8], ends: usize) -> (OwnedFd, Vec<OwnedFd>) {
        let worker = knock(server);
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
        let server = server();
        for ends in [0, 1, 2, 3, 4, 5, 64, 253] {
            let (_worker, kept) = greet(&server, b"a greeting", ends);
            let refused = admit(&server, std::process::id(), true).expect_err("it is no greeting");
            assert!(kept.iter().all(is_closed), "{ends} ends: {refused}");
        }
    }
}
