//! W5: items that are large.

use super::start::median;
use crate::chart::Chart;
use crate::contestant::Plan;
use crate::functions::Echo;
use crate::measure::{Method, entries, rounds, warm};
use crate::python;
use crate::report::{Goal, Section, Target, cell};

const ITEMS: u64 = 200;
pub(super) const ITEM_BYTES: usize = 1 << 20;

pub(super) fn measure(method: &Method) -> Section {
    let (slot, plan) = (method.slot, Plan::large());
    let template = vec![7_u8; ITEM_BYTES];
    let item = |_| template.clone();
    let item = &item;
    let contestants = entries!(
        [Builtin, Rayon, Threads, Raw, RawByHand, Procspawn, Fastmap],
        warm::<Echo>(slot, plan, ITEMS, item)
    );
    let outcome = rounds(method, contestants);
    let in_python = python::measure(method, "large");
    let mut section = Section::new(
        "W5: large items",
        "200 items of 1 MiB to the workers and back, changed in one byte, by workers that run already. The \
         200 MiB are counted once. Each item is cloned when it is read, by all of them. *raw, by hand* is written for \
         messages that are one byte string: nothing is copied in its processes.",
        &["", "MB/s", "over raw", "over raw, by hand"],
    );
    let (raw, by_hand) = (outcome.find("raw"), outcome.find("raw, by hand"));
    let rate = |time: f64| ITEMS as f64 * ITEM_BYTES as f64 / time / 1e6;
    for series in outcome.series.iter().chain(&in_python.series) {
        section.row(
            &series.name,
            [
                cell(series.spread(rate)),
                cell(series.against(raw, |time, raw| raw / time)),
                cell(series.against(by_hand, |time, raw| raw / time)),
            ],
        );
    }
    let reached = median(outcome.find("fastmap").against(raw, |time, raw| raw / time));
    section.targets.push(Target::new("W5: MB/s over raw", reached, Goal::AtLeast(1.3)));
    let bars = outcome.series.iter().chain(&in_python.series);
    let bars = bars.map(|series| (series.name.clone(), median(series.spread(rate)))).collect();
    section.chart = Some(Chart::new("bench-w5", "1 MiB items there and back, MB/s; more is better", bars));
    section.count(&outcome);
    section.count(&in_python);
    section
}
