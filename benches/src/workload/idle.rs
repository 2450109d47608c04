//! Idle share: whether the workers are kept busy for a consumer that is as fast as they are.

use std::time::{Duration, Instant};
use std::{process, thread};

use super::start::median;
use crate::contestant::{Contestant, Plan, WORKERS};
use crate::functions::{Burn, Work};
use crate::measure::{Method, entries, rounds};
use crate::processes::{Process, descendants};
use crate::report::{Goal, Section, Target, cell};

/// What an item takes of a worker's CPU, in µs, and what the consumer takes for a result.
const ITEM: u64 = 1000;
const PACE: Duration = Duration::from_micros(ITEM / WORKERS as u64);
/// Results before the measurement begins.
const RUN_UP: u32 = 300;

pub(super) fn measure(method: &Method) -> Section {
    let measured = if method.quick { 1000 } else { 4000 };
    let outcome = rounds(method, entries!([Raw, Procspawn, Fastmap], idle_share::<Burn>(measured)));
    let mut section = Section::new(
        "Idle share",
        "Items of 1 ms of CPU time for two workers, and a consumer that takes a result each 0.5 ms, by the \
         clock: the share of time in which the workers wait, by the kernel's count of their CPU time. Only \
         contestants with worker processes.",
        &["", "idle, % of the workers' time"],
    );
    for series in &outcome.series {
        section.row(&series.name, [cell(series.spread(|share| share * 100.0))]);
    }
    let reached = median(outcome.find("fastmap").spread(|share| share * 100.0));
    section.targets.push(Target::new("Idle share, %", reached, Goal::AtMost(5.0)));
    section.count(&outcome);
    section
}

fn idle_share<W: Work<In = u64>, C: Contestant<W>>(measured: u32) -> Option<f64> {
    let cpu = || descendants(process::id()).iter().map(Process::precise_cpu_seconds).sum::<f64>();
    let mut taken = 0;
    let mut begun: Option<Instant> = None;
    let mut window = None;
    let mut share = None;
    C::start(Plan::chunks_of(1)).map(
        u64::from(u32::MAX),
        |_| ITEM,
        |_| {
            let first = *begun.get_or_insert_with(Instant::now);
            taken += 1;
            if taken == RUN_UP {
                window = Some((Instant::now(), cpu()));
            }
            if taken == RUN_UP + measured {
                let (from, before) = window.expect("the run-up is over");
                share = Some(1.0 - (cpu() - before) / (from.elapsed().as_secs_f64() * WORKERS as f64));
                return false;
            }
            thread::sleep((first + PACE * taken).saturating_duration_since(Instant::now()));
            true
        },
    );
    share
}
