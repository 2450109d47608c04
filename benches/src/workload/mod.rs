//! The workloads, one file each: which contestants, what they map, how it is told. Some run a contestant in a child
//! process of this executable: where the process itself is measured, or ended.

mod break_even;
mod cloud;
mod coarse;
mod confined;
mod crash;
mod idle;
mod infinite;
mod inline;
mod instructions;
mod large;
mod memory;
mod reported;
mod start;
mod tiny;
mod uneven;

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

pub(crate) use cloud::Service;

use crate::measure::{Entry, Method};
use crate::report::Section;
use crate::work::turns;

pub(crate) type Workload = fn(&Method) -> Section;

/// All of them, with their names.
pub(crate) const ALL: [(&str, Workload); 14] = [
    ("W1", start::measure),
    ("W2", tiny::measure),
    ("W3", coarse::measure),
    ("BREAK-EVEN", break_even::measure),
    ("W4", uneven::measure),
    ("W5", large::measure),
    ("W6", infinite::measure),
    ("INLINE", inline::measure),
    ("IDLE", idle::measure),
    ("W7", crash::measure),
    ("W8", memory::measure),
    ("SANDBOX", confined::measure),
    ("TIMINGS", reported::measure),
    ("CLOUD", cloud::measure),
];

/// The workloads of these names; all if there are none.
///
/// # Errors
/// If a name is not known, with those that are.
pub(crate) fn choose(names: &[String]) -> Result<Vec<(&'static str, Workload)>, String> {
    let find = |name: &String| {
        let found = ALL.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let known = || ALL.map(|(name, _)| name).join(", ");
        found.ok_or_else(|| format!("{name} is no workload; there are {}", known()))
    };
    match names {
        [] => Ok(ALL.to_vec()),
        names => names.iter().map(find).collect(),
    }
}

/// The first argument of a child process; the second names what it does, the third the contestant.
pub(crate) const CHILD: &str = "child-of-the-harness";

/// What a child process does: `words` are what follows [`CHILD`].
pub(crate) fn child(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().expect("the harness writes numbers");
    match *words.as_slice() {
        ["start", contestant] => run_one(start::children(), contestant),
        ["crash", contestant, case] => run_one(crash::children(case), contestant),
        ["memory", contestant, count] => run_one(memory::children(number(count)), contestant),
        ["instructions", contestant, count] => run_one(instructions::children(number(count)), contestant),
        ["small", contestant, maps, items, turns] => {
            run_one(instructions::small(number(maps), number(items), number(turns)), contestant);
        }
        [crate::estimate::WORD, case, warm, turns] => {
            crate::estimate::child(number(case) as usize, warm == "true", number(turns));
        }
        ["spin"] => crate::estimate::spin(),
        ["turns", micros] => println!("{}", turns(Duration::from_micros(number(micros)))),
        _ => panic!("a child process is told by the harness what to do, not {words:?}"),
    }
}

fn run_one(entries: Vec<Entry<()>>, contestant: &str) {
    let entry = entries.into_iter().find(|entry| entry.name == contestant);
    (entry.expect("the harness names a contestant that it entered").run)();
}

/// Starts a child process; its stdout is a pipe.
fn spawn(words: &[&str]) -> Child {
    Command::new("/proc/self/exe")
        .arg(CHILD)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this executable can be started")
}

/// The next line that a child writes, if it comes in time. Its descendants may hold the pipe open for longer than it
/// lives; the thread that reads then stays until they close it.
fn line(child: &mut Child, limit: Duration) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read: io::Result<usize> = BufReader::new(stdout).read_line(&mut line);
        let _ = send.send(read.ok().filter(|read| *read > 0).map(|_| line.trim().to_owned()));
    });
    receive.recv_timeout(limit).ok().flatten()
}
