//! The option `inline`: no map is noticeably slower than `Iterator::map`, however small or large its work.

use std::time::Duration;

use super::start::median;
use crate::contestant::{Builtin, Contestant, Inline, Plan};
use crate::functions::{Spin, Work, turns};
use crate::measure::{Entry, Method, Spread, pass, rounds, seconds};
use crate::report::{Goal, Section, Target, cell};

const ITEMS: [(Duration, &str); 3] = [
    (Duration::from_micros(1), "1 µs"),
    (Duration::from_micros(100), "100 µs"),
    (Duration::from_millis(10), "10 ms"),
];
const TOTALS: [u64; 8] = [1, 3, 10, 30, 100, 300, 1000, 3000];

/// Rounds of at least so much work: what the scheduler does is a large part of little.
const ENOUGH: Duration = Duration::from_millis(60);

pub(super) fn measure(method: &Method) -> Section {
    let mut section = Section::new(
        "Inline",
        "With the option `inline`: time over map, the two in turn, for items of 1 µs, 100 µs and 10 ms; a row is the work of \
         all items. Two workers, which are started in this time if they are needed.",
        &["work", "items of 1 µs", "items of 100 µs", "items of 10 ms"],
    );
    let mut worst: Option<(f64, String)> = None;
    let most = if method.quick { 300 } else { u64::MAX };
    for total in TOTALS.into_iter().filter(|total| *total <= most) {
        let work = Duration::from_millis(total);
        let mut cells = Vec::new();
        for (item, name) in ITEMS {
            let items = (work.as_nanos() / item.as_nanos()) as u64;
            if items == 0 {
                cells.push("–".to_owned());
                continue;
            }
            let repeats = (ENOUGH.as_nanos() / work.as_nanos()).max(1) as usize;
            let turns = turns(item);
            let contestants =
                vec![Entry::new("time over map", move || over_map::<Spin>(repeats, items, turns))];
            let outcome = rounds(method, contestants);
            section.count(&outcome);
            let ratio = outcome.find("time over map").spread(|ratio| ratio);
            if let Some(median) = median(ratio)
                && worst.as_ref().is_none_or(|(most, _)| median > *most)
            {
                worst = Some((median, format!("{total} ms in items of {name}")));
            }
            cells.push(cell(ratio));
        }
        section.row(&format!("{total} ms"), cells);
    }
    let (worst, at) = worst.map_or((None, String::new()), |(worst, at)| (Some(worst), format!(" ({at})")));
    section.targets.push(Target::new(format!("Inline: worst time over map{at}"), worst, Goal::AtMost(1.05)));
    section
}

/// The median ratio of so many pairs; each pool is new, and its end is not counted.
fn over_map<W: Work<In = u64>>(repeats: usize, items: u64, turns: u64) -> Option<f64> {
    let item = move |_| turns;
    let pair = |index: usize| {
        let mut inline = <Inline as Contestant<W>>::start(Plan::chunks_of(1));
        let own = |inline: &mut Inline| seconds(|| pass::<W, Inline>(inline, items, item));
        let map = || seconds(|| pass::<W, Builtin>(&mut Builtin, items, item));
        // None of them always goes first.
        let (own, map) = if index.is_multiple_of(2) {
            let map = map();
            (own(&mut inline), map)
        } else {
            (own(&mut inline), map())
        };
        own / map
    };
    Spread::of((0..repeats).map(pair)).map(|spread| spread.median)
}
