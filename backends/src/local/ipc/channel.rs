//! The channel between a host and one worker: a socket that keeps packets apart. The host makes it, and the
//! worker gets its end as standard input: before anything else, the page comes over it (`shared_page`); then frames
//! go both ways, and large contexts to the worker, each as a file. It works in a jail and in a sandbox, as
//! nothing has to be opened there.
//!
//! Each packet says its own length, so that what a function writes into the descriptor by mistake is found
//! out. A worker may also be a stranger's: a packet is copied first, then looked at, and no send waits for
//! ever. Used by `shared_page`, `frame_sender` and `reader`, and in the worker by `receiver` and `sender`.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, getsockopt, recv, sendmsg,
    setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;

use crate::local::process::descriptors;
use crate::local::process::descriptors::above_standard;
use crate::model::frame::PACKET;
use crate::model::protocol_error::ProtocolError;

/// What is before each packet's content: the packet's own length, and the content's; native words. It is the
/// head that ipc-channel gives a message of one packet, as the handshake is.
const HEAD: usize = 16;
/// Bytes of a socket's buffer that the kernel keeps for itself are fewer.
const OVERHEAD: usize = 1024;

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What a worker receives.
#[derive(Debug)]
pub(crate) enum Received {
    Packet(Vec<u8>),
    /// A file, or why it is missing.
    File(io::Result<OwnedFd>),
}

impl Channel {
    /// The host's end, and the one that becomes a worker's standard input.
    ///
    /// # Errors
    /// If no descriptor is left, or if the kernel allows no packet of the largest size.
    pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
        // A program that is no worker, and reads its standard input, is not to wait for it.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (host, worker) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let (host, worker) = (Channel(above_standard(host)?), above_standard(worker)?);
        host.make_waiting()?;
        for end in [&host.0, &worker] {
            make_room(end)?;
        }
        Ok((host, worker))
    }

    /// The worker's end, which does not wait for packets yet.
    pub(crate) fn open(stdin: OwnedFd) -> Channel {
        Channel(stdin)
    }

    /// From now on this end waits for packets, and for room.
    ///
    /// # Errors
    /// If the system refuses that.
    pub(crate) fn make_waiting(&self) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(&self.0, FcntlArg::F_GETFL)?);
        fcntl(&self.0, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// From now on a send at this end fails (`WouldBlock`) where there is no room for so long.
    ///
    /// # Errors
    /// If the system refuses that.
    pub(crate) fn limit_sends(&self, most: Duration) -> io::Result<()> {
        let most = TimeVal::new(most.as_secs().cast_signed(), most.subsec_micros().into());
        Ok(setsockopt(&self.0, sockopt::SendTimeout, &most)?)
    }

    /// Sends one packet, whole or not at all. It raises no signal where the other end is closed.
    ///
    /// # Errors
    /// If the other end is closed, or if there was no room for as long as a send may take.
    pub(crate) fn send(&self, content: &[u8]) -> io::Result<()> {
        self.send_with(content, &[], MsgFlags::MSG_NOSIGNAL)
    }

    /// Gives the worker a file. Never waits.
    ///
    /// # Errors
    /// If the worker is dead or takes nothing, or too many files of this user are on their way.
    pub(crate) fn give(&self, file: &impl AsFd) -> io::Result<()> {
        let files = [file.as_fd().as_raw_fd()];
        // Called under the pool's lock, where nothing may wait: the send time limit of the channel would be
        // too long there.
        let rights = [ControlMessage::ScmRights(&files)];
        self.send_with(&[], &rights, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(&self, content: &[u8], rights: &[ControlMessage<'_>], flags: MsgFlags) -> io::Result<()> {
        let (whole, length) = ((HEAD + content.len()).to_ne_bytes(), content.len().to_ne_bytes());
        let parts = [IoSlice::new(&whole), IoSlice::new(&length), IoSlice::new(content)];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, rights, flags, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Host: the next packet's content; `None` at the end. `within`: something must have come by then.
    ///
    /// # Errors
    /// If it is no packet of a worker's, or comes too late.
    pub(crate) fn packet(
        &self,
        buffer: &mut Vec<u8>,
        within: Option<Duration>,
    ) -> Result<Option<Vec<u8>>, ProtocolError> {
        make_buffer(buffer);
        if let Some(within) = within
            && !wait(&self.0, within)
        {
            return Err(ProtocolError::Unfinished { within });
        }
        loop {
            // MSG_TRUNC gives the true length, however much of it fits: a packet that is cut is seen as that. Descriptors that
            // come along are dropped by the kernel.
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Ok(0) => return Ok(None),
                Ok(length) if length <= buffer.len() => {
                    return content(&buffer[..length]).map(|content| Some(content.to_vec()));
                }
                Ok(length) => return Err(ProtocolError::PacketTooLong { length }),
                // The second: the worker is dead and has left packets unread. The kernel says so once, before it
                // gives what the worker has sent.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                // Nothing more can be received: as at the end, the worker's exit is what decides.
                Err(_) => return Ok(None),
            }
        }
    }

    /// Worker: what the host has sent next; `None` at the end.
    pub(crate) fn next(&self, buffer: &mut Vec<u8>) -> Option<Received> {
        make_buffer(buffer);
        let descriptors::Received { length, mut files, .. } =
            // A packet has at least its head: no bytes at all are the channel's end.
            descriptors::receive(&self.0, buffer).ok().filter(|received| received.length > 0)?;
        // The host sends no others.
        let content = content(&buffer[..length]).ok()?;
        Some(match content {
            [] => Received::File(files.pop().ok_or_else(|| {
                io::Error::other("no file came over it (has this process descriptors left?)")
            })),
            content => Received::Packet(content.to_vec()),
        })
    }

    /// Worker: the file that must have come before anything else.
    ///
    /// # Errors
    /// If this is no channel of a host's.
    pub(crate) fn first_file(&self) -> io::Result<OwnedFd> {
        let nothing = || io::Error::other("standard input is not the channel of a fastmap host");
        match self.next(&mut Vec::new()) {
            Some(Received::File(file)) => file,
            Some(Received::Packet(_)) | None => Err(nothing()),
        }
    }

    /// Ends this end's receiving, after what is in the channel: the worker is dead, and it does not matter which
    /// other processes have its end.
    pub(crate) fn end(&self) {
        let _ended = shutdown(self.0.as_raw_fd(), Shutdown::Read);
    }

    /// Ends this end's sending: the other one receives what is in the channel, and then the end.
    pub(crate) fn close(&self) {
        let _closed = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives a buffer room for the largest packet. Memory that is zero when it is allocated takes no time before it is used.
fn make_buffer(buffer: &mut Vec<u8>) {
    if buffer.is_empty() {
        *buffer = vec![0; HEAD + PACKET];
    }
}

/// Sees to it that the largest packet fits the socket's buffer.
fn make_room(end: &OwnedFd) -> io::Result<()> {
    let least = HEAD + PACKET + OVERHEAD;
    if getsockopt(end, sockopt::SndBuf)? >= least {
        return Ok(());
    }
    // The kernel doubles the number.
    setsockopt(end, sockopt::SndBuf, &least.div_ceil(2))?;
    // Asked again, because the kernel cuts the number to `net.core.wmem_max` without an error.
    let size = getsockopt(end, sockopt::SndBuf)?;
    match size >= least {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "sockets of this system hold {size} bytes, and workers need {least}: raise net.core.wmem_max"
        ))),
    }
}

/// Waits until there is something to be read, or the other end is closed; false if neither came within
/// `most`.
pub(crate) fn wait(socket: &OwnedFd, most: Duration) -> bool {
    let deadline = Instant::now() + most;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, because a timeout of 0 ms would spin through the last millisecond.
        let timeout =
            PollTimeout::try_from(left.as_micros().div_ceil(1000) as u32).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) => return false,
            // An error of the socket is returned by the next call on it.
            _ => return true,
        }
    }
}

/// What a packet carries, if its head says the truth about it.
///
/// # Errors
/// If it lies.
pub(crate) fn content(packet: &[u8]) -> Result<&[u8], ProtocolError> {
    let wrong = || ProtocolError::PacketHead { length: packet.len() };
    let (head, content) = packet.split_at_checked(HEAD).ok_or_else(wrong)?;
    let word = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let fits = word(0) == packet.len() as u64 && word(8) == content.len() as u64;
    fits.then_some(content).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn channel() -> (Channel, Channel) {
        let (host, stdin) = Channel::pair().expect("descriptors");
        let worker = Channel::open(stdin);
        worker.make_waiting().expect("it is a socket");
        (host, worker)
    }

    #[test]
    fn packets_and_files_arrive_in_order_and_both_ways() {
        let (host, worker) = channel();
        let (read, write) = nix::unistd::pipe().expect("descriptors");
        host.give(&write).expect("room");
        host.send(b"work").expect("room");
        host.give(&read).expect("room");
        drop((read, write));
        let file = || match worker.next(&mut Vec::new()) {
            Some(Received::File(Ok(file))) => File::from(file),
            other => panic!("{other:?}"),
        };
        let mut write = file();
        assert!(matches!(worker.next(&mut Vec::new()), Some(Received::Packet(work)) if work == b"work"));
        let read = file();
        write.write_all(b"through").expect("it is the pipe");
        drop(write);
        assert_eq!(io::read_to_string(read).expect("it is the pipe"), "through");
        for packet in [b"answer".to_vec(), vec![7; PACKET]] {
            worker.send(&packet).expect("room");
            assert_eq!(host.packet(&mut Vec::new(), None).expect("a packet"), Some(packet));
        }
        let late = host.packet(&mut Vec::new(), Some(Duration::from_millis(1))).expect_err("nothing comes");
        assert!(matches!(late, ProtocolError::Unfinished { .. }), "{late}");
    }

    #[test]
    fn answers_of_a_dead_worker_arrive_although_it_has_left_packets_unread() {
        let (host, worker) = channel();
        host.send(b"never read").expect("room");
        worker.send(b"last words").expect("room");
        let held_by_a_child = Channel(worker.0.try_clone().expect("a descriptor"));
        drop(worker);
        host.end();
        drop(held_by_a_child);
        let buffer = &mut Vec::new();
        assert_eq!(host.packet(buffer, None).expect("a packet").as_deref(), Some(&b"last words"[..]));
        assert_eq!(host.packet(buffer, None).expect("no packet"), None);
    }

    #[test]
    fn a_closed_channel_gives_what_was_sent_and_then_its_end() {
        let (host, worker) = channel();
        host.send(b"work").expect("room");
        host.close();
        let buffer = &mut Vec::new();
        assert!(matches!(worker.next(buffer), Some(Received::Packet(work)) if work == b"work"));
        assert!(worker.next(buffer).is_none());
        worker.send(b"answer").expect("the other way is open");
        assert_eq!(host.packet(buffer, None).expect("a packet"), Some(b"answer".to_vec()));
    }

    #[test]
    fn sends_and_files_that_are_never_taken_end() {
        let (host, worker) = channel();
        host.limit_sends(Duration::from_millis(50)).expect("it is a socket");
        let packet = vec![0; PACKET];
        let refused = (0..100).find_map(|_| host.send(&packet).err()).expect("there is no room");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let null = File::open("/dev/null").expect("the null device");
        assert!((0..100_000).any(|_| host.give(&null).is_err()));
        drop(worker);
        assert!(host.give(&null).is_err());
    }

    #[test]
    fn heads_that_lie_are_refused() {
        let head = |own: u64, message: u64| [own.to_ne_bytes(), message.to_ne_bytes()].concat();
        for lie in [vec![], vec![8; 8], head(8, 0), head(16, 1), head(17, 0), head(16, u64::MAX)] {
            assert!(content(&lie).is_err(), "{lie:?}");
        }
        assert!(content(&head(16, 0)).expect("it is true").is_empty());
    }
}
