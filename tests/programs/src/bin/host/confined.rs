//! Maps whose function does what its contract forbids, in workers that are confined as the environment says.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, abort};
use std::thread;
use std::time::Duration;

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
    /// Wants a file, and waits for it as if it came.
    Wait,
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
            "wait" => Breach::Wait,
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
            Breach::Wait => {
                let _refused = fs::write("/var/lib/fastmap-breach", "");
                thread::sleep(Duration::from_secs(5));
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

/// Ten items that do without a file, of which the seventh answers an error of its own that another one is refused.
pub(crate) fn own_errors() -> Outcome {
    let function = |n: u64| {
        let _refused = fs::read("/etc/hosts");
        if n == 7 { fs::write(written(), "").map_err(|_| String::new()) } else { Ok(()) }
    };
    report(config()?.fastmap(function, 0..10), |n| if n == 7 { Err(String::new()) } else { Ok(()) });
    Ok(())
}

/// What the C library tells a function of the stack that it is on.
pub(crate) fn stack() -> Outcome {
    let look = |_: u64| {
        // SAFETY: plain data, for which zeroes are valid, filled by the calls.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            let error = libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes);
            let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
            libc::pthread_attr_getstack(&raw const attributes, &raw mut lowest, &raw mut size);
            let here = (&raw const attributes).addr();
            (error, size as u64, (lowest.addr()..lowest.addr() + size).contains(&here))
        }
    };
    for answer in config()?.fastmap(look, 0..4) {
        let (error, size, inside) = answer?;
        println!("stack {error} {size} {inside}");
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
