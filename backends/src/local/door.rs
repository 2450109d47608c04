//! The host's end of the channel to a worker that may be anybody's. ipc-channel takes its peer at its word: the length
//! in a packet's head is allocated, or subtracted from. Here a packet is first copied, then looked at, and only its
//! content goes on. The worker made the sockets and may hold more ends of them than it should: nothing is looked at in
//! the socket, and no send waits for ever. Used by `start` (makes the door) and `reader` (stands at it).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, getsockopt, listen, recv, recvmsg, sendmsg, setsockopt, shutdown,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::wire::PACKET;

/// What stands before each packet of ipc-channel: its own length, and that of the message; native words.
const HEAD: usize = 16;
/// The version, an identity and three ends of channels take less than 200 bytes.
const GREETING: usize = 4096;
/// The ends that a greeting brings: the sender to the worker, the receiver of what it sends, and one to wake that.
const ENDS: usize = 3;
/// A worker takes what it is sent at once, whatever its function does. One that has not for so long is cut off.
const SEND_SECONDS: i64 = 5;

/// Where a door in the folder of the socket `server` is.
pub(crate) fn path_beside(server: &str) -> String {
    let folder = server.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/door")
}

/// Where a worker that is trusted with nothing knocks.
#[derive(Debug)]
pub(crate) struct Door {
    listener: OwnedFd,
    path: String,
}

impl Door {
    /// A door in the folder of the socket `server`, which goes when that is answered.
    pub(crate) fn beside(server: &str) -> nix::Result<Door> {
        let path = path_beside(server);
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(Door { listener, path })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Waits for the worker's greeting, and passes it on to `server`, where ipc-channel reads it.
    ///
    /// # Errors
    /// In words, if what came is no greeting.
    pub(crate) fn admit(&self, server: &str) -> Result<Vetted, String> {
        let system = |error: Errno| error.to_string();
        let worker = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).map_err(system)?;
        // SAFETY: accept has just made it, and nobody else has it.
        let worker = unsafe { OwnedFd::from_raw_fd(worker) };
        let mut bytes = [0; GREETING];
        let (length, ends) = greeting(worker.as_raw_fd(), &mut bytes)?;
        let bytes = &bytes[..length];
        content(bytes)?;
        let [sender, receiver, _] = ends.as_slice() else {
            return Err(format!("it brings {} ends of channels, not {ENDS}", ends.len()));
        };
        for end in &ends {
            let kind = getsockopt(end, sockopt::SockType).map_err(system)?;
            if kind != SockType::SeqPacket {
                return Err("it brings a socket of another kind".to_owned());
            }
        }
        setsockopt(sender, sockopt::SendTimeout, &TimeVal::seconds(SEND_SECONDS)).map_err(system)?;
        let host =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(system)?;
        connect(host.as_raw_fd(), &UnixAddr::new(server).map_err(system)?).map_err(system)?;
        let numbers: Vec<RawFd> = ends.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(host.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(system)?;
        let receiver = receiver.try_clone().map_err(|error| error.to_string())?;
        Ok(Vetted { receiver, buffer: vec![0; HEAD + PACKET] })
    }
}

/// Takes the first packet with the descriptors that it brings.
fn greeting(worker: RawFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), String> {
    let mut space = nix::cmsg_space!([RawFd; ENDS]);
    let mut buffer = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(worker, &mut buffer, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            received => break received.map_err(|error| error.to_string())?,
        }
    };
    let mut ends = Vec::new();
    for part in message.cmsgs().map_err(|error| error.to_string())? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made them for this process, and nobody else has them.
            ends.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err("it is longer than any greeting".to_owned());
    }
    Ok((message.bytes, ends))
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

    /// The next packet's content; `None` at the end.
    ///
    /// # Errors
    /// In words, if it is none of ipc-channel's, or longer than a worker sends.
    pub(crate) fn packet(&mut self) -> Result<Option<Vec<u8>>, String> {
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
    use ipc_channel::ipc::{self, IpcOneShotServer, IpcSender};

    use super::*;

    /// What a worker's greeting is made of.
    type Ends = (ipc::IpcBytesSender, ipc::IpcBytesReceiver, ipc::IpcBytesSender);

    #[test]
    fn a_true_greeting_gets_through_and_packets_arrive_as_ipc_channel_sent_them() {
        let (server, name) = IpcOneShotServer::<Ends>::new().expect("a temporary folder");
        let door = Door::beside(&name).expect("room in it");
        let worker = IpcSender::<Ends>::connect(door.path().to_owned()).expect("the door is open");
        let (to_worker, frames) = ipc::bytes_channel().expect("descriptors");
        let (results, from_worker) = ipc::bytes_channel().expect("descriptors");
        worker.send((to_worker, from_worker, results.clone())).expect("room in the socket");
        let mut vetted = door.admit(&name).expect("a greeting");
        let (_, (to_worker, _, _)) = server.accept().expect("it was passed on");
        to_worker.send(b"work").expect("room in the socket");
        assert_eq!(frames.recv().expect("it came"), b"work");
        for packet in [b"answer".to_vec(), vec![7; PACKET], Vec::new()] {
            results.send(&packet).expect("room in the socket");
            assert_eq!(vetted.packet(), Ok(Some(packet)));
        }
        results.send(b"last words").expect("room in the socket");
        // Somebody keeps the sending end; the worker is dead.
        finish(&vetted.handle().expect("a descriptor"));
        assert_eq!(vetted.packet().expect("a packet").as_deref(), Some(&b"last words"[..]));
        assert_eq!(vetted.packet(), Ok(None));
    }

    #[test]
    fn a_send_that_is_never_taken_ends() {
        let (server, name) = IpcOneShotServer::<Ends>::new().expect("a temporary folder");
        let door = Door::beside(&name).expect("room in it");
        let worker = IpcSender::<Ends>::connect(door.path().to_owned()).expect("the door is open");
        let (to_worker, _never_read) = ipc::bytes_channel().expect("descriptors");
        let (results, from_worker) = ipc::bytes_channel().expect("descriptors");
        worker.send((to_worker, from_worker, results)).expect("room in the socket");
        door.admit(&name).expect("a greeting");
        let (_, (to_worker, _, _)) = server.accept().expect("it was passed on");
        let started = std::time::Instant::now();
        let packet = vec![0; PACKET];
        let refused = (0..100).find_map(|_| to_worker.send(&packet).err());
        assert!(refused.is_some());
        assert!(started.elapsed().as_secs() < 4 * SEND_SECONDS as u64, "{:?}", started.elapsed());
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
