//! W8: what the host holds while much more streams through it.

use std::fs;
use std::time::Duration;

use super::child::{line, spawn};
use super::large::ITEM_BYTES;
use super::start::median;
use crate::chart::Chart;
use crate::contestant::{Contestant, Plan};
use crate::functions::{Echo, Work};
use crate::measure::{Entry, Method, entries, pass, rounds};
use crate::report::{Goal, Section, Target, cell};

const CONTESTANTS: [&str; 5] = ["map", "threads", "raw", "procspawn", "fastmap"];
const READ_AHEAD: usize = 16_000_000;
const LIMIT: Duration = Duration::from_secs(600);

pub(super) fn measure(method: &Method) -> Section {
    let items = match (method.full, method.quick) {
        (true, _) => 10_000,
        (_, true) => 500,
        _ => 2_000,
    };
    // A peak of memory is not disturbed by what others compute: two rounds show whether it can be relied on.
    let method = Method { rounds: method.rounds.min(2), attempts: 1, python: None, ..*method };
    let in_child = |name: &'static str| Entry::new(name, move || peak(name, items));
    let outcome = rounds(&method, CONTESTANTS.into_iter().map(in_child).collect());
    let mut section = Section::new(
        "W8: memory",
        format!(
            "Peak memory of a host (`VmHWM`) while {items} items of 1 MiB went to the workers and back; \
             fastmap with a read-ahead of 16 MB, the others with four items under way."
        ),
        &["", "peak, MB"],
    );
    for series in &outcome.series {
        section.row(&series.name, [cell(series.spread(|bytes| bytes / 1e6))]);
    }
    let reached = median(outcome.find("fastmap").spread(|bytes| bytes / 1e6));
    section.targets.push(Target::new("W8: peak of the host, MB", reached, Goal::AtMost(48.0)));
    let bars =
        outcome.series.iter().map(|series| (series.name.clone(), median(series.spread(|bytes| bytes / 1e6))));
    section.chart =
        Some(Chart::new("bench-w8", "Peak memory of the host, MB; less is better", bars.collect()));
    section
}

fn peak(name: &str, items: u64) -> Option<f64> {
    let mut child = spawn(&["memory", name, &items.to_string()]);
    let peak = line(&mut child, LIMIT).and_then(|line| line.parse().ok());
    let _ = child.kill();
    let _ = child.wait();
    peak
}

/// What the children run.
pub(super) fn children(items: u64) -> Vec<Entry<'static, ()>> {
    entries!([Builtin, Threads, Raw, Procspawn, Fastmap], stream::<Echo>(items))
}

/// Writes the most bytes that this process has held.
fn stream<W: Work<In = Vec<u8>>, C: Contestant<W>>(items: u64) {
    let plan = Plan { read_ahead: READ_AHEAD, ..Plan::large() };
    pass::<W, C>(&mut C::start(plan), items, |_| vec![7; ITEM_BYTES]);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    println!("{}", kilobytes.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024);
}
