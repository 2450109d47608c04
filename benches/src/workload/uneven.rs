//! W4: items whose sizes differ by orders of magnitude.

use std::time::Duration;

use fastrand::Rng;

use super::start::median;
use crate::chart::Chart;
use crate::contestant::{Contestant, Plan};
use crate::functions::{Spin, Work, turns};
use crate::measure::{Method, Outcome, entries, rounds, warm};
use crate::report::{Goal, Section, Target, cell};

const ITEMS: u64 = 500;
/// No item is more of the whole: two workers can still share it evenly.
const LARGEST_SHARE: f64 = 0.1;

pub(super) fn measure(method: &Method) -> Section {
    let total = Duration::from_secs_f64(if method.full { 5.0 } else { 2.0 });
    let mut section = Section::new(
        "W4: uneven items",
        format!(
            "500 items whose times follow a Pareto distribution (shape 1.1, and 1.5; others in each round, the same for \
             all contestants, none above {:.0} % of the whole), {} s in all, by workers that run already. \
             Efficiency: the time of map over twice the time taken; 1 is ideal. *rayon's best* is the faster of its two \
             in the round. Which contestant takes the long items last is chance, so a single sequence would \
             measure only that.",
            LARGEST_SHARE * 100.0,
            total.as_secs()
        ),
        &["", "efficiency, 1.1", "over rayon's best, 1.1", "efficiency, 1.5", "over rayon's best, 1.5"],
    );
    let outcomes = [1.1, 1.5].map(|shape| (shape, of_shape(method, shape, total)));
    let efficiency = |outcome: &Outcome, index: usize| {
        outcome.series[index].against(outcome.find("map"), |time, map| map / (2.0 * time))
    };
    let over_rayon = |outcome: &Outcome, index: usize| {
        outcome.series[index]
            .against(&outcome.least(&["rayon", "rayon, max_len(1)"]), |time, best| time / best)
    };
    let names: Vec<String> = outcomes[0].1.series.iter().map(|series| series.name.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        let cells =
            outcomes.iter().flat_map(|(_, outcome)| [efficiency(outcome, index), over_rayon(outcome, index)]);
        section.row(name, cells.map(cell));
    }
    let own = names.iter().position(|name| name == "fastmap").expect("entered");
    for (shape, outcome) in &outcomes {
        let reached = median(over_rayon(outcome, own));
        section.targets.push(Target::new(
            format!("W4: Pareto({shape}), time over rayon's best"),
            reached,
            Goal::AtMost(1.02),
        ));
        section.count(outcome);
    }
    let bars =
        names.into_iter().enumerate().map(|(index, name)| (name, median(efficiency(&outcomes[0].1, index))));
    section.chart =
        Some(Chart::new("bench-w4", "Efficiency, Pareto(1.1); more is better, 1 is ideal", bars.collect()));
    section
}

fn of_shape(method: &Method, shape: f64, total: Duration) -> Outcome {
    let plan = Plan::uneven();
    let (one, turns) = (Method { rounds: 1, ..method.clone() }, turns(total));
    let mut outcome = Outcome::default();
    for round in 0..method.rounds {
        let table = pareto(shape, turns, round as u64);
        let table = table.as_slice();
        let item = move |index: u64| table[index as usize];
        // Long enough by itself: one map is a measurement.
        let mut contestants = entries!(
            [Builtin, Rayon, RayonFine, Threads, Raw, Procspawn, Fastmap],
            warm_once::<Spin>(plan, item)
        );
        let first = round % contestants.len();
        contestants.rotate_left(first);
        outcome.append(rounds(&one, contestants));
    }
    outcome
}

fn warm_once<W: Work<In = u64>, C: Contestant<W>>(
    plan: Plan,
    item: impl Fn(u64) -> u64 + Send + Sync + Copy,
) -> f64 {
    warm::<W, C>(Duration::ZERO, plan, ITEMS, item)
}

/// Turns for each item of a round, `total` in all.
fn pareto(shape: f64, total: u64, round: u64) -> Vec<u64> {
    let mut random = Rng::with_seed(round);
    let mut sizes: Vec<f64> = (0..ITEMS).map(|_| (1.0 - random.f64()).powf(-1.0 / shape)).collect();
    // What is cut off one changes the whole, so that it takes a few goes.
    for _ in 0..20 {
        let whole: f64 = sizes.iter().sum();
        for size in &mut sizes {
            *size = size.min(LARGEST_SHARE * whole);
        }
    }
    let whole: f64 = sizes.iter().sum();
    sizes.iter().map(|size| (size / whole * total as f64) as u64).collect()
}
