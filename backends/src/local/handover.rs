//! Files that a host hands to one of its workers: the page, before the worker is started, and large contexts later.
//! A socket is the worker's stdin; each message on it is one file. Used by `page` for itself, by `pool` for contexts,
//! on the other side by `worker`. It works in a jail and in a sandbox, as nothing has to be opened there.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use super::descriptors;

/// One end of the socket. The host only gives, and never reads what a worker may write into it.
#[derive(Debug)]
pub(crate) struct Handover(OwnedFd);

impl Handover {
    /// The host's end, and the one that becomes a worker's stdin.
    pub(crate) fn create() -> io::Result<(Handover, OwnedFd)> {
        // What is taken has been given before. And a program that is no worker, and reads its stdin, is not to wait for it.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (host, worker) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Handover(host), worker))
    }

    /// The worker's end.
    pub(crate) fn open(stdin: OwnedFd) -> Handover {
        Handover(stdin)
    }

    /// Gives a file. Never waits.
    ///
    /// # Errors
    /// If the worker is dead or takes nothing, or too many files of this user are on their way.
    pub(crate) fn give(&self, file: &impl AsFd) -> io::Result<()> {
        let files = [file.as_fd().as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&files)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            // A message of no bytes would be the socket's end.
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(b"f")], &rights, flags, None) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Takes the next file, which must have been given.
    ///
    /// # Errors
    /// If what came is none, as where this process has no descriptor left.
    pub(crate) fn take(&self) -> io::Result<OwnedFd> {
        let mut files = descriptors::receive(&self.0, &mut [0])?.files;
        let missing = || io::Error::other("no file came over it (has this process descriptors left?)");
        files.pop().ok_or_else(missing)
    }
}

impl From<Handover> for OwnedFd {
    fn from(handover: Handover) -> OwnedFd {
        handover.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn files_arrive_in_order_and_a_worker_that_takes_none_holds_up_nobody() {
        let (host, stdin) = Handover::create().expect("descriptors");
        let worker = Handover::open(stdin);
        let (read, write) = nix::unistd::pipe().expect("descriptors");
        host.give(&write).expect("room");
        host.give(&read).expect("room");
        drop((read, write));
        let mut write = File::from(worker.take().expect("the first"));
        let read = File::from(worker.take().expect("the second"));
        write.write_all(b"through").expect("it is the pipe");
        drop(write);
        assert_eq!(io::read_to_string(read).expect("it is the pipe"), "through");
        let null = File::open("/dev/null").expect("the null device");
        assert!((0..100_000).any(|_| host.give(&null).is_err()));
        drop(worker);
        assert!(host.give(&null).is_err());
    }
}
