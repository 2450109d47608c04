//! A test that this machine can't run says so where no test runner hides it: `scripts/test` prints these lines last.

use std::io::Write;

/// The test that this thread runs is left out, for this reason.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    // What `eprintln!` writes is hidden where a test passes. Without a stderr nobody is there to read it.
    let _unread = writeln!(std::io::stderr(), "skipped: {}: {reason}", thread.name().unwrap_or("a test"));
}
