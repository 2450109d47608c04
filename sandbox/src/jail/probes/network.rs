//! Probes that make sockets of any family but the channel's own, and that listen.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use crate::jail::probes::probe::{Probe, not_blocked, result};

pub(super) const ALL: &[Probe] = &[
    Probe { name: "open a TCP socket", act: || socket(libc::AF_INET, libc::SOCK_STREAM, 0) },
    Probe { name: "open a UDP socket", act: || socket(libc::AF_INET, libc::SOCK_DGRAM, 0) },
    Probe { name: "open a TCP socket of IPv6", act: || socket(libc::AF_INET6, libc::SOCK_STREAM, 0) },
    Probe { name: "open a raw socket", act: || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) },
    Probe { name: "open a packet socket", act: || socket(libc::AF_PACKET, libc::SOCK_RAW, 0) },
    Probe { name: "open a netlink socket", act: || socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) },
    Probe { name: "reach for sockets of the hypervisor", act: || family(libc::AF_VSOCK) },
    Probe { name: "reach for the kernel's cryptography", act: || family(libc::AF_ALG) },
    Probe { name: "reach for Bluetooth", act: || family(libc::AF_BLUETOOTH) },
    Probe { name: "reach for express data paths", act: || family(libc::AF_XDP) },
    Probe { name: "make datagram sockets", act: || UnixDatagram::pair().map(drop) },
    Probe { name: "lift the host's limit on sends", act: send_for_ever },
    Probe { name: "listen on a socket without a path", act: listen },
];

fn open(family: i32, kind: i32, protocol: i32) -> libc::c_long {
    // SAFETY: plain numbers; a returned descriptor is closed at once.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        if fd >= 0 {
            libc::close(fd);
        }
        fd.into()
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<()> {
    result(open(family, kind, protocol)).map(drop)
}

/// Tries a socket family that this kernel may lack; an error of the kernel itself is no denial.
fn family(family: i32) -> io::Result<()> {
    not_blocked(open(family, libc::SOCK_STREAM, 0))
}

/// Tries to set the send timeout of a socket. The worker has the host's end of its channel as well, and could
/// change it.
fn send_for_ever() -> io::Result<()> {
    let (one, _other) = UnixStream::pair()?;
    one.set_write_timeout(Some(std::time::Duration::from_secs(1)))
}

fn listen() -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(format!("fastmap-probe-{}", std::process::id()))?;
    UnixListener::bind_addr(&address).map(drop)
}
