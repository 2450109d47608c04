//! Network: every family of sockets, and what is done with one.

use std::io;
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use crate::Control::{Past, RootWorks, Works};
use crate::{Probe, call, probe};

fn socket(family: i32, kind: i32) -> io::Result<()> {
    call!(libc::SYS_socket, family, kind, 0)
}

/// For calls on a descriptor that is none: the kernel says so, if it is asked.
const NONE: i32 = -1;

pub(crate) const PROBES: &[Probe] = &[
    probe("connect by TCP", "socket", Works, |scene| TcpStream::connect(&scene.tcp).map(drop)),
    probe("listen by TCP", "socket", Works, |_| std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
    probe("send by UDP", "socket", Works, |scene| {
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"secret", &scene.udp).map(drop)
    }),
    probe("a socket of IPv6", "socket", Works, |_| socket(libc::AF_INET6, libc::SOCK_STREAM)),
    probe("a raw socket", "socket", RootWorks, |_| {
        call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
    }),
    probe("look up a name of the network", "socket", Works, |_| {
        "localhost:80".to_socket_addrs().map(drop).map_err(|error| {
            // The C library has an error of its own for a resolver that can open nothing.
            if crate::refused().is_some() { io::Error::from_raw_os_error(libc::EPERM) } else { error }
        })
    }),
    probe("connect to a socket with a path", "socket", Works, |scene| {
        UnixStream::connect(scene.folder.join("socket")).map(drop)
    }),
    probe("connect to an abstract socket", "socket", Works, |scene| {
        let name = SocketAddr::from_abstract_name(format!("fastmap-scene-{}", scene.host))?;
        UnixStream::connect_addr(&name).map(drop)
    }),
    probe("a datagram socket with a path", "socket", Works, |scene| {
        UnixDatagram::bind(scene.folder.join("new")).map(drop)
    }),
    // Each could send to any other such socket of the machine.
    probe("a pair of datagram sockets", "socketpair", Works, |_| UnixDatagram::pair().map(drop)),
    probe("a pair of sockets of TIPC", "socketpair", Past(&[libc::EAFNOSUPPORT]), |_| {
        let mut ends = [0i32; 2];
        call!(libc::SYS_socketpair, libc::AF_TIPC, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr())
    }),
    probe("a socket to the kernel (netlink)", "socket", Works, |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    probe("a socket for packets", "socket", RootWorks, |_| socket(libc::AF_PACKET, libc::SOCK_DGRAM)),
    probe("a socket to the hypervisor (vsock)", "socket", Works, |_| {
        socket(libc::AF_VSOCK, libc::SOCK_STREAM)
    }),
    probe("a socket for ciphers", "socket", Works, |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
    probe("a socket for Bluetooth", "socket", RootWorks, |_| socket(libc::AF_BLUETOOTH, libc::SOCK_RAW)),
    probe("connect a socket that is there", "connect", Past(&[libc::EBADF]), |_| {
        call!(libc::SYS_connect, NONE, std::ptr::null::<u8>(), 0)
    }),
    probe("bind a socket that is there", "bind", Past(&[libc::EBADF]), |_| {
        call!(libc::SYS_bind, NONE, std::ptr::null::<u8>(), 0)
    }),
    probe("listen on a socket that is there", "listen", Past(&[libc::EBADF]), |_| {
        call!(libc::SYS_listen, NONE, 1)
    }),
    probe("accept from a socket that is there", "accept4", Past(&[libc::EBADF]), |_| {
        call!(libc::SYS_accept4, NONE, std::ptr::null::<u8>(), std::ptr::null::<u8>(), 0)
    }),
];
