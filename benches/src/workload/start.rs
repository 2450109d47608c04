//! W1: from the start of a process to its first result.

use std::io::{self, Read as _, Write as _};

use super::child::spawn;
use crate::chart::Chart;
use crate::contestant::{Contestant, Plan, WORKERS};
use crate::functions::{Sqrt, Work};
use crate::measure::{Entry, Method, Spread, entries, rounds};
use crate::python;
use crate::report::{Goal, Section, Target, cell};

const CONTESTANTS: [&str; 6] = ["map", "rayon", "threads", "raw", "procspawn", "fastmap"];

pub(super) fn measure(method: &Method) -> Section {
    let in_child = |name: &'static str| Entry::new(name, move || Some(from_outside(method, name)));
    let entries: Vec<Entry> = CONTESTANTS.into_iter().map(in_child).collect();
    let outcome = rounds(method, entries);
    let in_python = python::measure(method, "start");
    let mut section = Section::new(
        "W1: start",
        "Milliseconds from the start of a process to its first result, seen from outside: a program that maps a square \
         root over one item for each worker. *map* shows the start of the program alone.",
        &["", "ms", "over raw"],
    );
    let raw = outcome.find("raw");
    for series in outcome.series.iter().chain(&in_python.series) {
        section.row(
            &series.name,
            [cell(series.spread(|time| time * 1e3)), cell(series.against(raw, |time, raw| time / raw))],
        );
    }
    let ratio = outcome.find("fastmap").against(raw, |time, raw| time / raw).map(|spread| spread.median);
    section.targets.push(Target::new("W1: time to the first result, over raw", ratio, Goal::AtMost(1.3)));
    let bars =
        outcome.series.iter().map(|series| (series.name.clone(), median(series.spread(|time| time * 1e3))));
    section.chart = Some(Chart::new("bench-w1", "Start to first result, ms; less is better", bars.collect()));
    section.count(&outcome);
    section.count(&in_python);
    section
}

pub(super) fn median(spread: Option<Spread>) -> Option<f64> {
    spread.map(|spread| spread.median)
}

fn from_outside(method: &Method, name: &str) -> f64 {
    let mut times = Vec::new();
    let begun = std::time::Instant::now();
    while times.is_empty() || begun.elapsed() < method.slot {
        let started = std::time::Instant::now();
        let mut child = spawn(&["start", name]);
        let mut first = [0];
        child
            .stdout
            .take()
            .and_then(|mut stdout| stdout.read_exact(&mut first).ok())
            .expect("the child has a result");
        times.push(started.elapsed().as_secs_f64());
        child.wait().expect("the child ends");
    }
    Spread::of(times).expect("at least one").median
}

/// What the children run.
pub(super) fn children() -> Vec<Entry<'static, ()>> {
    entries!([Builtin, Rayon, Threads, Raw, Procspawn, Fastmap], first_result::<Sqrt>())
}

fn first_result<W: Work<In = u64>, C: Contestant<W>>() {
    let mut told = false;
    C::start(Plan::chunks_of(1)).map(
        WORKERS as u64,
        |index| index,
        |_| {
            if !told {
                let _ = io::stdout().write_all(b"1").and_then(|()| io::stdout().flush());
                told = true;
            }
            true
        },
    );
}
