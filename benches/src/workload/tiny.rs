//! W2: items that are next to nothing.

use super::start::median;
use crate::chart::Chart;
use crate::contestant::Plan;
use crate::functions::Sqrt;
use crate::measure::{Method, entries, rounds, warm};
use crate::python;
use crate::report::{Goal, Section, Target, cell};

const ITEMS: u64 = 1_000_000;

pub(super) fn measure(method: &Method) -> Section {
    let (slot, plan) = (method.slot, Plan::chunks_of(20_000));
    let contestants = entries!(
        [Builtin, Rayon, Threads, Raw, RawByHand, Procspawn, Fastmap, Inline],
        warm::<Sqrt>(slot, plan, ITEMS, |index| index)
    );
    let outcome = rounds(method, contestants);
    let in_python = python::measure(method, "tiny");
    let mut section = Section::new(
        "W2: tiny items",
        "The square root of a million numbers, by workers that run already: the cost of an item without work. \
         *raw, by hand* is written for this one type: it turns whole chunks of numbers into bytes at once. \
         Python peers are compared with Python's `map`.",
        &["", "million items/s", "time over map", "items/s over raw", "over raw, by hand"],
    );
    let (map, raw, fastmap) = (outcome.find("map"), outcome.find("raw"), outcome.find("fastmap"));
    let by_hand = outcome.find("raw, by hand");
    let rate = |time: f64| ITEMS as f64 / time / 1e6;
    for series in &outcome.series {
        section.row(
            &series.name,
            [
                cell(series.spread(rate)),
                cell(series.against(map, |time, map| time / map)),
                cell(series.against(raw, |time, raw| raw / time)),
                cell(series.against(by_hand, |time, raw| raw / time)),
            ],
        );
    }
    for series in &in_python.series {
        let over_map = series.against(&in_python.series[0], |time, map| time / map);
        section
            .row(&series.name, [cell(series.spread(rate)), cell(over_map), "–".to_owned(), "–".to_owned()]);
    }
    let over_map = median(fastmap.against(map, |time, map| time / map));
    let over_raw = median(fastmap.against(raw, |time, raw| raw / time));
    section.targets.push(Target::new("W2: time over map", over_map, Goal::AtMost(4.0)));
    let inline = median(outcome.find("fastmap, inline").against(map, |time, map| time / map));
    section.targets.push(Target::new("W2: time over map, inline", inline, Goal::AtMost(1.25)));
    section.targets.push(Target::new("W2: items/s over raw", over_raw, Goal::AtLeast(1.5)));
    let bars = outcome.series.iter().chain(&in_python.series);
    let bars = bars.map(|series| (series.name.clone(), median(series.spread(rate)))).collect();
    section.chart = Some(Chart::new("bench-w2", "Square roots, million a second; more is better", bars));
    section.count(&outcome);
    section.count(&in_python);
    section
}
