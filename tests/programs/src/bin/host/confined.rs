//! Maps whose function does what its contract forbids, in workers that are confined as the environment says.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, abort};
use std::thread;

use fastmap_test_programs::{refuse, report};
use serde::{Deserialize, Serialize};

use crate::{Outcome, config};

/// What a function does, and whether it can do without.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Breach {
    Read,
    ReadInThread,
    Write,
    Connect,
    Start,
    Kill,
    /// Reads, and aborts where it can't.
    ReadOrAbort,
    /// Tries all of these, and goes on.
    TryAll,
    /// Asks only what libraries ask in passing.
    LookUp,
}

impl Breach {
    fn named(name: &str) -> Result<Breach, String> {
        Ok(match name {
            "read" => Breach::Read,
            "read-in-thread" => Breach::ReadInThread,
            "write" => Breach::Write,
            "connect" => Breach::Connect,
            "start" => Breach::Start,
            "kill" => Breach::Kill,
            "read-or-abort" => Breach::ReadOrAbort,
            "try-all" => Breach::TryAll,
            "look-up" => Breach::LookUp,
            other => return Err(format!("no breach {other:?}")),
        })
    }

    fn happen(self) {
        match self {
            Breach::Read => drop(fs::read("/etc/passwd").expect("a file")),
            Breach::ReadInThread => thread::scope(|scope| {
                scope.spawn(|| drop(fs::read("/etc/passwd").expect("a file"))).join().expect("no panic");
            }),
            Breach::Write => fs::write(written(), "").expect("a new file"),
            Breach::Connect => drop(TcpStream::connect("127.0.0.1:9").expect("a connection")),
            Breach::Start => drop(Command::new("/bin/true").status().expect("a process")),
            Breach::Kill => {
                let host = nix::unistd::getppid();
                nix::sys::signal::kill(host, None).expect("a signal to the host");
            }
            Breach::ReadOrAbort => {
                if fs::read("/etc/passwd").is_err() {
                    abort();
                }
            }
            Breach::TryAll => {
                let _refused = (fs::read("/etc/passwd"), UdpSocket::bind("127.0.0.1:0"));
                let _refused = (fs::write(written(), ""), Command::new("/bin/true").status());
            }
            Breach::LookUp => {
                let _threads = thread::available_parallelism();
                let _refused = fs::read("/proc/self/cgroup");
            }
        }
    }
}

/// A file that is not there, in a folder that is none of a worker's own.
fn written() -> std::path::PathBuf {
    std::path::Path::new("/var/lib").join(format!("fastmap-breach-{}", std::process::id()))
}

/// A hundred items, each tenth of which does that (item 5, 15, …).
pub(crate) fn breach(name: &str, maps: u64) -> Outcome {
    let breach = Breach::named(name)?;
    let config = config()?;
    let function = |breach: &Breach, n: u64| {
        if n % 10 == 5 {
            breach.happen();
        }
        n
    };
    for map in 1..=maps {
        report(config.fastmap_with(breach, function, 0..100).label(format!("map {map}")), |n| n);
    }
    Ok(())
}

/// Each worker does that before its first item.
pub(crate) fn breach_in_init(name: &str) -> Outcome {
    let config = config()?;
    match Breach::named(name)? {
        Breach::Read => {
            report(config.fastmap_init(|| Breach::Read.happen(), |(): &mut (), n: u64| n, 0..100), |n| n);
        }
        Breach::TryAll => {
            report(config.fastmap_init(|| Breach::TryAll.happen(), |(): &mut (), n: u64| n, 0..100), |n| n);
        }
        other => return Err(format!("{other:?} is for items").into()),
    }
    Ok(())
}

/// A map on a kernel that lacks one of the layers.
pub(crate) fn kernel_without(layer: &str) -> Outcome {
    match layer {
        "landlock" => refuse(libc::SYS_landlock_create_ruleset, libc::ENOSYS)?,
        // Last: by this call the filter itself comes.
        "seccomp" => refuse(libc::SYS_seccomp, libc::ENOSYS)?,
        other => return Err(format!("no layer {other:?}").into()),
    }
    match config() {
        Ok(config) => report(config.fastmap(|n: u64| n, 0..100), |n| n),
        Err(error) => println!("init {:?} {error}", error.kind()),
    }
    Ok(())
}
