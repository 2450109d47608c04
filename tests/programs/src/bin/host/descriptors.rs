//! Maps of a host that has few descriptors, has closed its standard ones, or whose constructors have opened some.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, read_link};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use fastmap_test_programs::{LIMIT, children, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Outcome, config};

fn soft_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).expect("a limit can be read").0
}

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Maps over more workers than the soft limit allows; prints how many came, what limit they saw, what each costs.
pub(crate) fn soft_limited(soft: u64, items: u64) -> Outcome {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    let config = config()?;
    let before = open();
    let look = |_: u64| {
        sleep(Duration::from_millis(50));
        (std::process::id(), soft_limit())
    };
    let seen: HashSet<(u32, u64)> = config.fastmap(look, 0..items).collect::<Result<_, _>>()?;
    let limits: HashSet<u64> = seen.iter().map(|(_, limit)| *limit).collect();
    println!("workers {}", seen.len());
    println!("limits {limits:?}");
    // What a start has taken for a moment is given back. A worker that was ready when all items were taken has seen none.
    until("no more than four descriptors for each worker", LIMIT, || {
        open() <= before + 4 * children(std::process::id().cast_signed()).len()
    });
    Ok(())
}

/// Closes the standard descriptors and maps with a function that prints; the outcome goes to a file.
pub(crate) fn without_standard(path: &str, when: &str) -> Outcome {
    let mut report = File::create(path)?;
    // SAFETY: nothing here uses them afterwards; that the library bears it is the question.
    let close = || (0..3).for_each(|number| _ = unsafe { libc::close(number) });
    let config = config()?;
    let print = |n: u64| {
        println!("item {n}");
        n
    };
    if when == "after" {
        let warm: u64 = config.fastmap(print, 0..4).sum::<Result<_, _>>()?;
        assert_eq!(warm, 6);
    }
    close();
    for _ in 0..3 {
        let sum: u64 = config.fastmap(print, 0..40).sum::<Result<_, _>>()?;
        assert_eq!(sum, 780);
        close();
    }
    let sum = config.fastmap(print, 0..40).sum::<Result<u64, _>>()?;
    let sockets = (0..3).filter_map(|number| read_link(format!("/proc/self/fd/{number}")).ok());
    let sockets = sockets.filter(|name| !name.starts_with("/")).count();
    use std::io::Write;
    writeln!(report, "sum {sum}, own descriptors below 3: {sockets}")?;
    Ok(())
}

/// What a constructor has opened; -1 where it was asked for nothing.
static LOG: AtomicI32 = AtomicI32::new(-1);

extern "C" fn open_log() {
    if let Some(path) = std::env::var_os("CONSTRUCTOR_LOG") {
        let log = OpenOptions::new().append(true).create(true).open(path).expect("the test's file");
        LOG.store(log.into_raw_fd(), Ordering::Relaxed);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static OPEN_LOG: extern "C" fn() = open_log;

/// The function writes to the file that a constructor has opened in its process.
pub(crate) fn constructor_log(items: u64) -> Outcome {
    let write = |n: u64| {
        let line = format!("item {n}\n");
        // SAFETY: the bytes are there.
        let written = unsafe { libc::write(LOG.load(Ordering::Relaxed), line.as_ptr().cast(), line.len()) };
        written as usize == line.len()
    };
    let good = config()?.fastmap(write, 0..items).filter(|written| matches!(written, Ok(true))).count();
    println!("good {good}");
    Ok(())
}

/// The function needs more stack than a main thread has.
pub(crate) fn deep(levels: u64) -> Outcome {
    fn down(left: u64) -> u64 {
        let page = std::hint::black_box([left; 128]);
        if left == 0 { 0 } else { down(left - 1) + page[5].min(1) }
    }
    println!("deep {}", config()?.fastmap(down, [levels]).next().ok_or("no answer")??);
    Ok(())
}
