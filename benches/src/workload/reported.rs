//! TIMINGS: what the report of timings costs a map.

use std::time::Duration;

use super::start::median;
use crate::contestant::Plan;
use crate::functions::{Spin, Sqrt, turns};
use crate::measure::{Entry, Method, cold, entries, rounds, warm};
use crate::report::{Goal, Section, Target, cell};

/// Of the square roots.
const TINY: u64 = 1_000_000;
/// Of 1 ms.
const COARSE: u64 = 1000;

pub(super) fn measure(method: &Method) -> Section {
    let (slot, turns) = (method.slot, turns(Duration::from_millis(1)));
    let tiny: Vec<Entry> =
        entries!([Fastmap, Reported], warm::<Sqrt>(slot, Plan::chunks_of(20_000), TINY, |index| index));
    let coarse: Vec<Entry> =
        entries!([Fastmap, Reported], cold::<Spin>(slot, Plan::chunks_of(1), COARSE, move |_| turns));
    let (tiny, coarse) = (rounds(method, tiny), rounds(method, coarse));
    let mut section = Section::new(
        "Report of timings",
        "fastmap whose maps write a report of their timings, and without: a million square roots by workers \
         that run already (W2), 1,000 items of 1 ms with the start and end of the workers (W3).",
        &[
            "",
            "a million square roots, ms",
            "1,000 items of 1 ms, ms",
            "added to the former, %",
            "to the latter, %",
        ],
    );
    let added = |with: f64, without: f64| (with / without - 1.0) * 100.0;
    let to_tiny = tiny.find("with a report").against(tiny.find("fastmap"), added);
    let to_coarse = coarse.find("with a report").against(coarse.find("fastmap"), added);
    for name in ["fastmap", "with a report"] {
        let milliseconds = |seconds: f64| seconds * 1e3;
        let added = |spread| if name == "fastmap" { String::new() } else { cell(spread) };
        section.row(
            name,
            [
                cell(tiny.find(name).spread(milliseconds)),
                cell(coarse.find(name).spread(milliseconds)),
                added(to_tiny),
                added(to_coarse),
            ],
        );
    }
    section.targets.push(Target::new(
        "Report: added to a map of 6 ms, %",
        median(to_tiny),
        Goal::AtMost(1.0),
    ));
    section.targets.push(Target::new(
        "Report: added to a map of 0.5 s, %",
        median(to_coarse),
        Goal::AtMost(1.0),
    ));
    section.count(&tiny);
    section.count(&coarse);
    section
}
