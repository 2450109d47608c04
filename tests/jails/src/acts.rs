//! What strangers' functions do. Each is a function that a map can be given.

use std::hint::black_box;
use std::io::Write;

/// Item 13 is the bad one of a map.
pub const BAD: u32 = 13;

/// An honest function, a few microseconds long.
pub fn work(n: u64) -> u64 {
    (0..2_000).fold(n, |sum, i| black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i)))
}

/// Never ends.
pub fn spin() -> u32 {
    let mut n = 0u32;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Takes memory, and touches it, until there is none.
pub fn eat_memory() -> u32 {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![1; 4 << 20]);
        black_box(&all);
    }
}

/// Makes processes as fast as it can, for ever.
pub fn fork_bomb() -> u32 {
    loop {
        // SAFETY: whoever comes out of it goes on in this loop, and touches nothing else.
        unsafe { libc::fork() };
    }
}

/// Makes threads until it may not any more, and tells how many it could.
pub fn thread_bomb() -> u32 {
    let sleep = || std::thread::sleep(std::time::Duration::from_secs(600));
    let refused = |_: &u32| std::thread::Builder::new().stack_size(64 << 10).spawn(sleep).is_err();
    (0..100_000).find(refused).unwrap_or(u32::MAX)
}

/// Lines of a kilobyte that [`flood`] prints.
pub const FLOOD: u64 = 20_000;

/// Prints 20 MB.
///
/// # Panics
/// If nobody reads them.
pub fn flood() -> u32 {
    let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<_>>();
    let mut out = std::io::stderr().lock();
    for _ in 0..FLOOD {
        out.write_all(&line).expect("somebody reads");
    }
    0
}

/// Panics.
///
/// # Panics
/// Always.
pub fn panic() -> u32 {
    panic!("of its own accord")
}

/// Reads from nowhere.
pub fn segfault() -> u32 {
    // SAFETY: none: it is to crash.
    unsafe { black_box(std::ptr::null::<u32>()).read_volatile() }
}

/// Ends its process as another one would.
pub fn kill() -> u32 {
    // SAFETY: a signal to this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    spin()
}

/// Raises a signal that nobody handles.
pub fn raise() -> u32 {
    // SAFETY: a signal to this thread.
    unsafe { libc::raise(libc::SIGUSR2) };
    spin()
}

/// Leaves with some words.
pub fn last_words() -> u32 {
    eprintln!("last words");
    std::process::abort()
}

/// Aborts.
pub fn abort() -> u32 {
    std::process::abort()
}

/// Leaves by an exit code.
pub fn exit() -> u32 {
    std::process::exit(9)
}
