//! Acts that the contract of a mapped function forbids.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::Command;

use crate::{Act, act};

pub(crate) const ACTS: &[Act] = &[
    act("a program is started", "", || match Command::new("/bin/true").status() {
        Ok(status) => status.to_string(),
        Err(why) => why.to_string(),
    }),
    act("a connection is made", "", || match TcpStream::connect("127.0.0.1:9") {
        Err(why) if why.kind() == ErrorKind::ConnectionRefused => "the network answers".to_owned(),
        Ok(_) => "the network answers".to_owned(),
        Err(why) => why.to_string(),
    }),
    act("a symbolic link is made", "", || {
        let made = std::os::unix::fs::symlink("/etc", std::env::temp_dir().join("link"));
        made.map_or_else(|why| why.to_string(), |()| "made".to_owned())
    }),
    act("a file of this machine is read", "", || {
        fs::read("/etc/hostname").map_or_else(|why| why.to_string(), |_| "read".to_owned())
    }),
];
