//! A test that this machine can't run says so where no test runner hides it: `scripts/test` prints these lines last.
//! What root can run everywhere is never left out for root.

use std::io::Write;

/// The test that this thread runs is left out, or all tests of this program where it is the first thread, for this reason.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let program = std::env::current_exe().unwrap_or_default();
    let name = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("all of {}", program.file_name().unwrap_or_default().display()),
    };
    // `eprintln!` would be hidden where a test passes. In one piece, because other processes write there, too.
    let _unread = std::io::stderr().write_all(format!("skipped: {name}: {reason}\n").as_bytes());
}

/// Whether this process may do what root may: the root of a container often may not.
///
/// # Panics
/// Without /proc.
#[must_use]
pub fn administers() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_SYS_ADMIN & 1 == 1)
}
