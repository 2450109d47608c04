//! What a function sends on its worker's channel to hurt the host: packets whose head lies, frames that are none.

use std::io;
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packet {
    /// Shorter than a head, and says so: its content would have a negative length.
    Short,
    /// Not even a length.
    Stub,
    /// Says that more than the machine's memory is to come, and brings the descriptor by which.
    Huge,
    /// A true head, and no frame behind it.
    Garbage,
    /// A frame of more bytes than a worker may answer.
    Claim,
    /// A frame that is the host's to send.
    HostKind,
    /// An answer to a batch that nobody asked for.
    Unasked,
    /// An answer that lies behind the end of the shared memory.
    Beyond,
}

/// What a frame begins with.
const HEADER: usize = 72;

impl Packet {
    /// All ways.
    pub const ALL: [Packet; 8] = [
        Packet::Short,
        Packet::Stub,
        Packet::Huge,
        Packet::Garbage,
        Packet::Claim,
        Packet::HostKind,
        Packet::Unasked,
        Packet::Beyond,
    ];

    /// What the host says of it.
    pub fn told(self) -> &'static str {
        match self {
            Packet::Short | Packet::Stub | Packet::Huge => "whose head does not fit it",
            Packet::Garbage => "begin with no frame header",
            Packet::Claim => "which is too much",
            Packet::HostKind => "is the host's to send",
            Packet::Unasked | Packet::Beyond => "what it was not asked",
        }
    }

    fn bytes(self) -> Vec<u8> {
        let frame = |kind: u32, items: u32, length: u64, place: u64| {
            let mut frame = vec![0; HEADER];
            frame[..4].copy_from_slice(&kind.to_le_bytes());
            frame[4..8].copy_from_slice(&items.to_le_bytes());
            frame[16..24].copy_from_slice(&0x7777_7777u64.to_le_bytes());
            frame[32..40].copy_from_slice(&length.to_le_bytes());
            frame[64..72].copy_from_slice(&place.to_le_bytes());
            whole(&frame)
        };
        match self {
            Packet::Short => 8u64.to_ne_bytes().to_vec(),
            Packet::Stub => vec![1, 2, 3],
            Packet::Huge => [32u64.to_ne_bytes(), (1u64 << 46).to_ne_bytes(), [0; 8], [0; 8]].concat(),
            Packet::Garbage => whole(&[0xa5; 1000]),
            Packet::Claim => frame(5, 1, u64::MAX / 2, 0),
            Packet::HostKind => frame(2, 1, 0, 0),
            Packet::Unasked => frame(5, 1, 0, 0),
            Packet::Beyond => frame(5, 1, 1 << 20, 8 << 20),
        }
    }
}

/// A packet as a worker sends it: its own length, that of its content, the content.
fn whole(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u64;
    [&(length + 16).to_ne_bytes(), &length.to_ne_bytes(), content].concat()
}

/// Sends a packet on every socket that this process has, as whoever knows the worker's inside would; then waits to be
/// ended.
pub fn send(packet: Packet) -> u32 {
    for socket in 3..64 {
        let _not_a_socket = send_on(socket, &packet.bytes(), packet == Packet::Huge);
    }
    std::thread::sleep(std::time::Duration::from_secs(600));
    0
}

fn send_on(socket: RawFd, bytes: &[u8], with_descriptor: bool) -> io::Result<()> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 4];
    // SAFETY: the message is made of addresses of `bytes` and `control`, which outlive the call; the control part has
    // room for one descriptor and its head, is aligned for it, and is only given where it is filled in.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        if with_descriptor {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(4) as _;
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(head).cast::<RawFd>().write_unaligned(socket);
        }
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
