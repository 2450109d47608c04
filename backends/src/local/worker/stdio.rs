//! What C code in a worker prints by `printf`: standard output is a pipe, for which the C library keeps even
//! whole lines in its buffer. They are written as on a terminal, line by line, and what is left before each
//! answer, so that the host has what an item printed when it has its result. Rust's own standard output
//! writes whole lines by itself.

use std::thread::yield_now;
use std::time::{Duration, Instant};

/// Another thread may have the stream, and a thread that waits in a write to a full pipe has it for long.
const PATIENCE: Duration = Duration::from_millis(100);

unsafe extern "C" {
    static mut stdout: *mut libc::FILE;
    fn __fpending(stream: *mut libc::FILE) -> libc::size_t;
    fn ftrylockfile(stream: *mut libc::FILE) -> libc::c_int;
    fn funlockfile(stream: *mut libc::FILE);
}

/// Has C's standard output written line by line.
pub(super) fn write_lines() {
    // SAFETY: the stream is the C library's own, and there is no other thread that could have closed it.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

/// Writes what C's standard output still holds, unless another thread keeps it.
pub(super) fn flush() {
    // SAFETY: as above; a function that closes the stream of its process must not print to it any more
    // either. What is counted without the lock is right for what this thread has written.
    unsafe {
        if __fpending(stdout) == 0 {
            return;
        }
        let begun = Instant::now();
        // Not by a lock that waits: a thread of the function's that writes to a full pipe holds the stream
        // for as long as the host does not read.
        while ftrylockfile(stdout) != 0 {
            if begun.elapsed() > PATIENCE {
                return;
            }
            yield_now();
        }
        libc::fflush(stdout);
        funlockfile(stdout);
    }
}
