//! The tables that the program prints: how well the rule does, what each of its constants does, what the host may cost.
//! Each is a function of the seed that gives Markdown.

use std::fmt::Write;
use std::time::Duration;

use fastmap_backends::batch_sizing::Rule;

use crate::clock::Nanos;
use crate::outcome::{Outcome, greedy};
use crate::settings::{Depth, Mean, Settings, Steal};
use crate::shapes::{CAP, Items, Shape};
use crate::simulate;
use crate::table::Table;
use crate::world::World;

/// Mean time of an item.
pub const MEAN: Duration = Duration::from_millis(1);

/// Of an item that costs less than a message.
const TINY: Duration = Duration::from_micros(2);

const WORKERS: [usize; 5] = [2, 8, 64, 1_000, 10_000];

/// From here on the workers are a service's: no machine has so many, and none starts them one after another.
const CLOUD: usize = 10_000;

/// A service in the same region.
pub const ROUND_TRIP: Duration = Duration::from_millis(2);
/// What a batch may cost a host of 10,000 workers whose share is 1,000 items of 1 ms; see [`host`].
pub const CLOUD_BATCH: Duration = Duration::from_micros(1);
/// Work in a batch for a service, in batches for this machine: 100 ms.
pub const CLOUD_WORK: f64 = 5.0;

/// The world that the tables put so many workers in, and the host's constants there.
pub fn place(workers: usize, settings: &Settings) -> (World, Settings) {
    if workers < CLOUD {
        (World::local(workers), *settings)
    } else {
        (World::cloud(workers, ROUND_TRIP, CLOUD_BATCH), settings.far(CLOUD_WORK, ROUND_TRIP))
    }
}

/// Items of a shape with what the best scheduler that does not know their times makes of them.
struct Load {
    workers: usize,
    items: Items,
    greedy: Nanos,
}

impl Load {
    fn new(workers: usize, each: usize, shape: Shape, mean: Duration, seed: u64) -> Self {
        let items = shape.draw(workers * each, mean, seed);
        let greedy = greedy(&items, &place(workers, &Settings::local()).0);
        Load { workers, items, greedy }
    }

    fn run(&self, settings: &Settings) -> Outcome {
        let (world, settings) = place(self.workers, settings);
        simulate(&world, &settings, &self.items)
    }

    /// `0.987 (0.991)`: efficiency, and the time of [`greedy`] over the time taken.
    fn cell(&self, outcome: &Outcome) -> String {
        format!("{:.3} ({:.3})", outcome.efficiency(), outcome.of_greedy(self.greedy))
    }
}

/// Efficiency for all shapes and numbers of workers, and what the map held and sent.
pub fn table(settings: &Settings, seed: u64) -> String {
    let heads = ["workers".to_owned(), "items each".to_owned()];
    let mut efficiency = Table::new(heads.into_iter().chain(Shape::ALL.map(|shape| shape.to_string())));
    let mut costs = Table::new([
        "workers",
        "items each",
        "of the bound",
        "batches",
        "messages",
        "recalls",
        "host busy",
        "held at most",
        "waiting segments",
    ]);
    for workers in WORKERS {
        for each in [100, 1_000] {
            let mut row = vec![count(workers as u64), count(each as u64)];
            for shape in Shape::ALL {
                let load = Load::new(workers, each, shape, MEAN, seed);
                let outcome = load.run(settings);
                row.push(load.cell(&outcome));
                let start = place(workers, settings).0.start;
                if shape == Shape::PARETO {
                    costs.row([
                        count(workers as u64),
                        count(each as u64),
                        format!("{:.3}", outcome.of_bound(start.ready(0))),
                        count(outcome.batches),
                        count(outcome.sent + outcome.received),
                        count(outcome.recalls),
                        format!("{:.0} %", 100.0 * outcome.host_load()),
                        format!("{:.2} MB", outcome.peak_bytes / 1e6),
                        count(outcome.peak_segments as u64),
                    ]);
                }
            }
            efficiency.row(row);
        }
    }
    format!(
        "Item time over the time of all workers; in brackets, the time of the best scheduler that does not know the \
         times over the time taken. Items of {MEAN:?}, Pareto cut off at {CAP} means, seed {seed}.\n\n{}\n\
         Pareto(1.5); the bound is an even share of the work, or the longest item with its worker's start:\n\n{}",
        efficiency.markdown(),
        costs.markdown()
    )
}

/// A constant with the values that are tried: name, and the settings for each value.
type Trial = (&'static str, Vec<(String, Settings)>);

fn trials(base: &Settings) -> Vec<Trial> {
    let rule = |rule: Rule| Settings { rule, ..*base };
    let steal = |change: &dyn Fn(&mut Steal)| {
        let mut settings = *base;
        settings.steal.iter_mut().for_each(change);
        settings
    };
    vec![
        (
            "parts",
            [1, 2, 4, 8, 16].map(|parts| (parts.to_string(), rule(Rule { parts, ..base.rule }))).to_vec(),
        ),
        (
            "growth",
            [2, 4, 8, 16].map(|growth| (growth.to_string(), rule(Rule { growth, ..base.rule }))).to_vec(),
        ),
        (
            "least",
            [0.0, 0.02, 0.05, 0.1, 0.2, 0.5]
                .map(|least: f64| {
                    let mut settings = *base;
                    settings.targets.least = base.targets.work.mul_f64(least);
                    (least.to_string(), settings)
                })
                .to_vec(),
        ),
        (
            "work",
            [0.25, 0.5, 1.0, 2.5, 5.0]
                .map(|times| {
                    let mut settings = *base;
                    settings.targets.work = base.targets.work.mul_f64(times);
                    (format!("{times}x"), settings)
                })
                .to_vec(),
        ),
        (
            "depth",
            std::iter::once(("2 to 4".to_owned(), *base))
                .chain(
                    [1, 2, 3, 4]
                        .map(|depth| (depth.to_string(), Settings { depth: Depth::fixed(depth), ..*base })),
                )
                .collect(),
        ),
        (
            "mean item time",
            vec![
                ("halving".to_owned(), Settings { mean: Mean::Halving, ..*base }),
                ("by items, 4".to_owned(), Settings { mean: Mean::ByItems { batches: 4.0 }, ..*base }),
                ("by items, 16".to_owned(), Settings { mean: Mean::ByItems { batches: 16.0 }, ..*base }),
            ],
        ),
        (
            "recalls",
            vec![
                ("none".to_owned(), Settings { steal: None, ..*base }),
                ("at once".to_owned(), steal(&|steal| steal.left_alone = Duration::ZERO)),
                ("while fed, late".to_owned(), *base),
                (
                    "when reading rests".to_owned(),
                    steal(&|steal| steal.left_alone = Duration::from_secs(3600)),
                ),
            ],
        ),
        (
            "answers looked at",
            vec![
                ("when the places are full".to_owned(), Settings { collects_between: false, ..*base }),
                ("after each batch".to_owned(), Settings { collects_between: true, ..*base }),
            ],
        ),
    ]
}

/// What each constant does, one varied at a time: mean over `seeds` of greedy's time over the time taken.
pub fn constants(base: &Settings, seed: u64, seeds: u64) -> String {
    let mut text = format!(
        "Time of the best scheduler that does not know the times over the time taken; Pareto(1.5), 1,000 items of {MEAN:?} a \
         worker, or 50,000 of {TINY:?}; seeds {seed} to {}. `work` in parts of the target.\n",
        seed + seeds - 1
    );
    let ordinary = WORKERS.map(|workers| (workers, 1_000, MEAN));
    let columns: Vec<(usize, usize, Duration)> =
        [(2, 50_000, TINY), (8, 50_000, TINY)].into_iter().chain(ordinary).collect();
    let loads: Vec<Vec<Load>> = columns
        .iter()
        .map(|(workers, each, mean)| {
            // The more workers, the less does one draw differ from another.
            let draws = if *workers > 64 { seeds.min(3) } else { seeds };
            (seed..seed + draws).map(|seed| Load::new(*workers, *each, Shape::PARETO, *mean, seed)).collect()
        })
        .collect();
    let heads: Vec<String> =
        columns.iter().map(|(workers, _, mean)| format!("{} × {mean:?}", count(*workers as u64))).collect();
    for (name, values) in trials(base) {
        let mut table = Table::new(std::iter::once(name.to_owned()).chain(heads.clone()));
        for (value, settings) in values {
            let mark = if settings == *base { " ←" } else { "" };
            let mut row = vec![format!("{value}{mark}")];
            for loads in &loads {
                let sum: f64 = loads.iter().map(|load| load.run(&settings).of_greedy(load.greedy)).sum();
                row.push(format!("{:.4}", sum / loads.len() as f64));
            }
            table.row(row);
        }
        let _infallible = write!(text, "\n{}", table.markdown());
    }
    text
}

/// What a batch may cost the host of 10,000 workers, for items of 1 ms and of 10 ms.
pub fn host(settings: &Settings, seed: u64) -> String {
    let mut table = Table::new(["host time a batch", "1 ms items", "host busy", "10 ms items", "host busy"]);
    let loads = [1, 10].map(|mean| Load::new(CLOUD, 1_000, Shape::PARETO, MEAN * mean, seed));
    for cost in [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0].map(|micros: f64| Duration::from_secs_f64(micros / 1e6))
    {
        let mut row = vec![format!("{cost:?}")];
        for load in &loads {
            let world = World::cloud(CLOUD, ROUND_TRIP, cost);
            // A tenth of a worker's share.
            let work = load.items.total() as f64 / CLOUD as f64 / 1e9 / 10.0;
            let times = work / settings.targets.work.as_secs_f64();
            let outcome = simulate(&world, &settings.far(times, ROUND_TRIP), &load.items);
            row.push(load.cell(&outcome));
            row.push(format!("{:.0} %", 100.0 * outcome.host_load()));
        }
        table.row(row);
    }
    format!(
        "{} workers {ROUND_TRIP:?} away, 1,000 items each, Pareto(1.5), seed {seed}: efficiency (of greedy's).\n\n{}",
        count(CLOUD as u64),
        table.markdown()
    )
}

/// `12,345`
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
