//! W3: items of a millisecond, with the start and end of the workers.

use std::time::Duration;

use super::start::median;
use crate::chart::Chart;
use crate::contestant::Plan;
use crate::functions::{Spin, turns};
use crate::measure::{Entry, Method, Outcome, Series, cold, entries, rounds};
use crate::python;
use crate::report::{Goal, Section, Target, cell};

/// Items of 1 ms, how the work is called, and the speed-up that fastmap aims at.
const SIZES: [(u64, &str, f64); 3] = [(20, "20 ms", 1.35), (100, "100 ms", 1.80), (1000, "1 s", 1.95)];

pub(super) fn measure(method: &Method) -> Section {
    let mut section = Section::new(
        "W3: items of 1 ms",
        "Speed-up against map for 20, 100 and 1,000 items of 1 ms each, including the start and the end of the \
         workers. Python peers are compared with Python's `map`.",
        &["", "20 ms", "100 ms", "1 s"],
    );
    let outcomes: Vec<[Outcome; 2]> = SIZES.iter().map(|(items, ..)| of_size(method, *items)).collect();
    for family in 0..2 {
        for index in 0..outcomes[0][family].series.len() {
            let cells = outcomes.iter().map(|outcome| cell(speed_up(&outcome[family], index)));
            section.row(&outcomes[0][family].series[index].name.clone(), cells);
        }
    }
    for (outcome, (_, work, aim)) in outcomes.iter().zip(SIZES) {
        let own = outcome[0].series.iter().position(|series| series.name == "fastmap").expect("entered");
        let reached = median(speed_up(&outcome[0], own));
        section.targets.push(Target::new(
            format!("W3: speed-up, {work} of work"),
            reached,
            Goal::AtLeast(aim),
        ));
        for family in outcome {
            section.count(family);
        }
    }
    let shown = &outcomes[1];
    let bars = shown.iter().flat_map(|outcome| {
        let bar = |(index, series): (usize, &Series)| (series.name.clone(), median(speed_up(outcome, index)));
        outcome.series.iter().enumerate().map(bar)
    });
    section.chart = Some(Chart::new(
        "bench-w3",
        "Speed-up, 100 items of 1 ms, from nothing; more is better, at most 2",
        bars.collect(),
    ));
    section
}

/// Against the first of the outcome, which is a map.
fn speed_up(outcome: &Outcome, index: usize) -> Option<crate::measure::Spread> {
    outcome.series[index].against(&outcome.series[0], |time, map| map / time)
}

fn of_size(method: &Method, items: u64) -> [Outcome; 2] {
    let (slot, plan, turns) = (method.slot, Plan::chunks_of(1), turns(Duration::from_millis(1)));
    let contestants: Vec<Entry> = entries!(
        [Builtin, Rayon, Threads, Raw, Procspawn, Fastmap],
        cold::<Spin>(slot, plan, items, move |_| turns)
    );
    let in_python = python::measure(method, &format!("coarse-{items}"));
    [rounds(method, contestants), in_python]
}
