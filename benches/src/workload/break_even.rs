//! Break-even: how much work it takes until a contestant is faster than map.

use std::time::Duration;

use super::start::median;
use crate::chart::Chart;
use crate::contestant::{Builtin, Contestant, Plan};
use crate::functions::{Spin, Work, turns};
use crate::measure::{Method, Spread, entries, pass, rounds, seconds};
use crate::report::{Goal, Section, Target, cell};

const ITEM: Duration = Duration::from_micros(50);
/// Items that map does at least before one number of them is judged.
const ENOUGH: u64 = 400;
/// Gives up at 200 ms of work.
const MOST: u64 = 4096;

pub(super) fn measure(method: &Method) -> Section {
    let (pairs, turns) = (if method.quick { 3 } else { 7 }, turns(ITEM));
    let mut section = Section::new(
        "Break-even",
        "The least work, in ms, from which a contestant is faster than map: found by bisection over the number of \
         items of 50 µs, map and contestant in turn. Cold: with the start and end of the workers. Warm: \
         with running workers.",
        &["", "cold, ms", "warm, ms"],
    );
    let cold = rounds(
        method,
        entries!([Rayon, Threads, Raw, Procspawn, Fastmap], break_even::<Spin>(pairs, turns, false)),
    );
    let warm = rounds(
        method,
        entries!([Rayon, Threads, Raw, Procspawn, Fastmap], break_even::<Spin>(pairs, turns, true)),
    );
    for (cold, warm) in cold.series.iter().zip(&warm.series) {
        section.row(&cold.name, [cold, warm].map(|series| cell(series.spread(|work| work * 1e3))));
    }
    for (outcome, name, aim) in [(&cold, "cold", 8.0), (&warm, "warm", 1.5)] {
        let reached = median(outcome.find("fastmap").spread(|work| work * 1e3));
        section.targets.push(Target::new(
            format!("Break-even {name}, ms of work"),
            reached,
            Goal::AtMost(aim),
        ));
        section.count(outcome);
    }
    let bars =
        cold.series.iter().map(|series| (series.name.clone(), median(series.spread(|work| work * 1e3))));
    section.chart = Some(Chart::new(
        "bench-break-even",
        "Break-even with map, workers started for it, ms of work; less is better",
        bars.collect(),
    ));
    section
}

/// Seconds of the least work that `C` does faster than map; none up to [`MOST`] items.
fn break_even<W: Work<In = u64>, C: Contestant<W>>(pairs: usize, turns: u64, warm: bool) -> Option<f64> {
    let plan = Plan::chunks_of(2);
    let item = |_| turns;
    let mut kept = warm.then(|| C::start(plan));
    if let Some(contestant) = &mut kept {
        pass::<W, C>(contestant, 200, item);
    }
    let mut map_seconds = 0.0;
    let mut wins = |items: u64| {
        let pair = |_| {
            let map = seconds(|| pass::<W, Builtin>(&mut Builtin, items, item));
            let time = seconds(|| match &mut kept {
                Some(contestant) => pass::<W, C>(contestant, items, item),
                None => pass::<W, C>(&mut C::start(plan), items, item),
            });
            (map, time)
        };
        // The shorter, the more often: what the scheduler does is a large part of little work.
        let measured: Vec<(f64, f64)> = (0..pairs.max((ENOUGH / items) as usize)).map(pair).collect();
        let ratio = Spread::of(measured.iter().map(|(map, time)| time / map))?.median;
        map_seconds = Spread::of(measured.iter().map(|(map, _)| *map))?.median / items as f64;
        Some(ratio < 1.0)
    };
    let mut wanting = 1;
    while !wins(2 * wanting)? {
        wanting *= 2;
        if wanting >= MOST {
            return None;
        }
    }
    let mut enough = 2 * wanting;
    // To about 5 %: noise allows no more.
    while enough - wanting > (enough / 20).max(1) {
        let middle = u64::midpoint(wanting, enough);
        match wins(middle)? {
            true => enough = middle,
            false => wanting = middle,
        }
    }
    Some(enough as f64 * map_seconds)
}
