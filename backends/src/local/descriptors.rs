//! Descriptors that come over a socket. Whatever the kernel has given to this process is owned before
//! anything else is looked at: what is not wanted, or came beside data that was cut, is closed and not
//! leaked. Used by `door` and `handover`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// Most descriptors that the kernel lets one message bring (`SCM_MAX_FD`).
const MOST: usize = 253;

/// A packet and what it brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes of it that are in the buffer.
    pub(crate) length: usize,
    /// All descriptors that have arrived.
    pub(crate) files: Vec<OwnedFd>,
    /// The packet was longer than the buffer, or not all of its descriptors have arrived (this process may
    /// have none left).
    pub(crate) cut: bool,
}

/// Receives the next packet with the descriptors that it brings.
///
/// # Errors
/// If the call fails; then nothing was received.
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Received> {
    let mut room = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let message = loop {
        let mut buffer = [IoSliceMut::new(bytes)];
        match recvmsg(&socket, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    // The buffer owns them: what is not taken out here is closed with it.
    let mut files = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            files.extend(some);
        }
    }
    let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { length: message.bytes.min(bytes.len()), files, cut })
}
