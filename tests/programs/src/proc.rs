//! Processes as `/proc` shows them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits until something is so, and panics if it is not in time.
pub fn until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// (state, parent) of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also spaces and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// The letter for what a process does: R, S, T (stopped), Z (a zombie), …; `None` when there is none.
pub fn state(pid: i32) -> Option<char> {
    stat(pid).map(|(state, _)| state)
}

/// Whether it runs, sleeps or is stopped; a dead one that nobody has waited for is not alive.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Processes with that parent, zombies included.
pub fn children(parent: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").expect("/proc can be read");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// The words of the command line, as `ps` shows them.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The living workers of a host.
pub fn workers(host: i32) -> Vec<i32> {
    children(host)
        .into_iter()
        .filter(|pid| is_alive(*pid) && command_line(*pid).contains("[fastmap worker"))
        .collect()
}

/// A number of `/proc/PID/status`: `VmRSS`, `Threads`, …
pub fn status_number(pid: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("process {pid} has no {name}"))
}

/// The most memory that this process had at a time, in KB.
pub fn peak_kb() -> u64 {
    status_number("self", "VmHWM")
}

/// Adds a line to the file that the variable `COUNT` names, if it is set: tests count processes by it.
pub fn count_this_process() {
    if let Some(path) = std::env::var_os("COUNT") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{}", std::process::id()));
        written.expect("the file that counts can be written");
    }
}
