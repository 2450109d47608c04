//! SANDBOX: what it costs to confine the workers, at their start and while they work.

use std::time::Duration;

use super::start::median;
use crate::contestant::{Plan, WORKERS};
use crate::functions::{Spin, Sqrt, turns};
use crate::measure::{Entry, Method, cold, entries, rounds};
use crate::report::{Goal, Section, Target, cell};

/// Items of 1 ms.
const ITEMS: u64 = 1000;

pub(super) fn measure(method: &Method) -> Section {
    let (slot, plan, turns) = (method.slot, Plan::chunks_of(1), turns(Duration::from_millis(1)));
    let start: Vec<Entry> =
        entries!([Fastmap, Confined], cold::<Sqrt>(slot, plan, WORKERS as u64, |index| index));
    let work: Vec<Entry> = entries!([Fastmap, Confined], cold::<Spin>(slot, plan, ITEMS, move |_| turns));
    let (start, work) = (rounds(method, start), rounds(method, work));
    let mut section = Section::new(
        "Sandbox",
        "fastmap with confined workers (`Sandbox::Require`) and without confinement: milliseconds from start to \
         end, with one item for each worker (all workers start, and end), and with 1,000 items of 1 ms. The cost of \
         confinement is the difference within a round.",
        &[
            "",
            "start, ms",
            "1,000 items of 1 ms, ms",
            "added to the start, ms",
            "added to the 1,000 items, %",
        ],
    );
    let added_to_start =
        start.find("confined").against(start.find("fastmap"), |with, without| (with - without) * 1e3);
    let added_to_work =
        work.find("confined").against(work.find("fastmap"), |with, without| (with / without - 1.0) * 100.0);
    for name in ["fastmap", "confined"] {
        let milliseconds = |seconds: f64| seconds * 1e3;
        let added = |spread| if name == "confined" { cell(spread) } else { String::new() };
        section.row(
            name,
            [
                cell(start.find(name).spread(milliseconds)),
                cell(work.find(name).spread(milliseconds)),
                added(added_to_start),
                added(added_to_work),
            ],
        );
    }
    section.targets.push(Target::new(
        "Sandbox: added to the start of the workers, ms",
        median(added_to_start),
        Goal::AtMost(1.0),
    ));
    section.targets.push(Target::new(
        "Sandbox: added to 1 s of items of 1 ms, %",
        median(added_to_work),
        Goal::AtMost(1.0),
    ));
    section.count(&start);
    section.count(&work);
    section
}
