//! W7: what is left when a worker is killed, an item ends its process, or the host is killed.

use std::process::{self, Child};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::child::{line, spawn};
use crate::contestant::{Contestant, Plan};
use crate::functions::{Lethal, Work, turns};
use crate::measure::{Entry, Method, entries};
use crate::processes::{Process, descendants};
use crate::report::{Goal, Section, Target};

const ITEMS: u64 = 40;
const LETHAL_AT: u64 = 20;
/// The result after which something happens.
const MOMENT: u64 = 3;
/// A contestant that says nothing for as long hangs.
const LIMIT: Duration = Duration::from_secs(15);
const CONTESTANTS: [&str; 6] = ["map", "rayon", "threads", "raw", "procspawn", "fastmap"];

pub(super) fn measure(_method: &Method) -> Section {
    let mut section = Section::new(
        "W7: crashes",
        "40 items of 20 ms. Items answered with a result after a worker is killed from outside, and with a segmentation \
         fault in item 21 (at most 39); and processes left 2 s after the host is killed by SIGKILL. *map*, *rayon* and *threads* have no workers to kill.",
        &["", "worker killed", "item segfaults", "left after the host is killed"],
    );
    for name in CONTESTANTS {
        let has_workers = !matches!(name, "map" | "rayon" | "threads");
        let killed = if has_workers { answered(name, "worker") } else { "–".to_owned() };
        let segfault = answered(name, "item");
        let left = left_behind(name);
        if name == "fastmap" {
            let number = |text: &str| text.split('/').next().and_then(|number| number.parse().ok());
            section.targets.extend([
                Target::new(
                    "W7: answered of 40 when a worker is killed",
                    number(&killed),
                    Goal::AtLeast(40.0),
                ),
                Target::new("W7: answered of 40 when one segfaults", number(&segfault), Goal::AtLeast(39.0)),
                Target::new("W7: processes left", Some(left as f64), Goal::AtMost(0.0)),
            ]);
        }
        section.row(name, [killed, segfault, left.to_string()]);
    }
    section
}

/// How a run in a child process went.
fn answered(name: &str, case: &str) -> String {
    let mut child = spawn(&["crash", name, case]);
    let begun = Instant::now();
    let answer = line(&mut child, LIMIT);
    let text = match answer {
        Some(count) => format!("{count}/{ITEMS}"),
        None if begun.elapsed() >= LIMIT => "hangs".to_owned(),
        None => "the host ends".to_owned(),
    };
    end(&mut child);
    text
}

/// Processes that outlive a host that is killed.
fn left_behind(name: &str) -> usize {
    let mut child = spawn(&["crash", name, "host"]);
    let ready = line(&mut child, LIMIT);
    let workers = descendants(child.id());
    let _ = child.kill();
    let _ = child.wait();
    assert!(ready.is_some() || workers.is_empty(), "{name}: a host that works says so");
    thread::sleep(Duration::from_secs(2));
    let left: Vec<&Process> = workers.iter().filter(|worker| worker.is_alive()).collect();
    for worker in &left {
        end_process(worker);
    }
    left.len()
}

fn end(child: &mut Child) {
    let workers = descendants(child.id());
    let _ = child.kill();
    let _ = child.wait();
    workers.iter().filter(|worker| worker.is_alive()).for_each(end_process);
}

fn end_process(process: &Process) {
    let _ = kill(Pid::from_raw(process.pid as i32), Signal::SIGKILL);
}

/// What the children run.
pub(super) fn children(case: &str) -> Vec<Entry<'_, ()>> {
    entries!([Builtin, Rayon, Threads, Raw, Procspawn, Fastmap], host::<Lethal>(case))
}

/// Writes how many results it got; under `host`, a line once it is at work.
fn host<W: Work<In = u64>, C: Contestant<W>>(case: &str) {
    let turns = turns(Duration::from_millis(20));
    let item = |index| if case == "item" && index == LETHAL_AT { Lethal::ITEM } else { turns };
    let (mut seen, mut answered) = (0, 0);
    C::start(Plan::chunks_of(1)).map(if case == "host" { 20 * ITEMS } else { ITEMS }, item, |result| {
        seen += 1;
        answered += u64::from(result.is_some());
        if seen == MOMENT
            && case == "worker"
            && let Some(worker) = descendants(process::id()).first()
        {
            end_process(worker);
        }
        if seen == MOMENT && case == "host" {
            println!("at work");
        }
        true
    });
    if case != "host" {
        println!("{answered}");
    }
}
