//! What the batching must reach, in virtual time. Each message names the seed.

use std::time::Duration;

use fastmap_simulator::experiments::{MEAN, place};
use fastmap_simulator::settings::Steal;
use fastmap_simulator::shapes::CAP;
use fastmap_simulator::world::Start;
use fastmap_simulator::{Outcome, Settings, Shape, World, greedy, simulate};

fn whole(outcome: &Outcome, what: &str) {
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{what}: items lost, items doubled");
}

#[test]
fn no_item_is_lost_or_run_twice_in_any_small_world() {
    for seed in 0..60 {
        let workers = 1 + (seed * 7 % 40) as usize;
        let round_trip = Duration::from_micros(100 * (1 + seed % 5 * seed % 5 * 10));
        let near = World {
            start: if seed % 2 == 0 { Start::Warm } else { World::local(1).start },
            ..World::local(workers)
        };
        let far = World::cloud(workers, round_trip, Duration::from_micros(15));
        let mean = Duration::from_micros([1, 100, 1_000, 20_000][seed as usize % 4]);
        for shape in Shape::ALL {
            let items = shape.draw(1 + (seed as usize * 131) % 3_000, mean, seed);
            let settings = Settings::local();
            // A budget that is always short must stop nothing.
            let tight = Settings { read_ahead: 1_000, ..settings };
            // Nor may it that work moves all the time.
            let restless = Settings {
                steal: settings.steal.map(|steal| Steal { left_alone: Duration::ZERO, ..steal }),
                ..settings
            };
            for (world, settings) in
                [(near, settings), (near, tight), (near, restless), (far, settings.far(5.0, round_trip))]
            {
                whole(&simulate(&world, &settings, &items), &format!("seed {seed}, {shape}, {world:?}"));
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    let run = |seed| {
        let items = Shape::PARETO.draw(20_000, MEAN, seed);
        simulate(&World::local(20), &Settings::local(), &items)
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).makespan, run(4).makespan);
}

/// The longest item is to weigh little against the map: with 1,000 items a worker, one of 50 means is 5 % of the whole time by
/// itself, and whoever does not know the times begins such a one at the very end. So the floor on plain efficiency is held
/// where no item is longer than 20 means (2 %), and with 50 means the floor is told against that best scheduler.
#[test]
fn ten_thousand_workers_are_kept_busy() {
    let (world, settings) = place(10_000, &Settings::local());
    for (cap, plain, of_greedy) in [(20.0, 0.95, 0.97), (CAP, 0.93, 0.97)] {
        let items = Shape::Pareto { shape: 1.5, cap }.draw(10_000_000, MEAN, 1);
        let outcome = simulate(&world, &settings, &items);
        let what = format!("seed 1, cap {cap} means");
        whole(&outcome, &what);
        let seen = (outcome.efficiency(), outcome.of_greedy(greedy(&items, &world)));
        assert!(seen.0 >= plain && seen.1 >= of_greedy, "{what}: efficiency, of greedy's: {seen:?}");
    }
}

#[test]
fn few_workers_are_kept_busy() {
    // The lowest of these seeds were 0.995, 0.978 and 0.952; of greedy's 0.998, 0.994 and 0.984.
    for (workers, plain) in [(2, 0.985), (8, 0.97), (64, 0.94)] {
        for seed in 1..=20 {
            let items = Shape::PARETO.draw(workers * 1_000, MEAN, seed);
            let outcome = simulate(&World::local(workers), &Settings::local(), &items);
            let what = format!("seed {seed}, {workers} workers");
            whole(&outcome, &what);
            assert!(outcome.efficiency() >= plain, "{what}: {}", outcome.efficiency());
        }
    }
}

#[test]
fn what_is_held_is_bounded_by_the_budget_and_the_places_not_by_the_items() {
    const BUDGET: usize = 4_000_000;
    let settings = Settings { read_ahead: BUDGET, ..Settings::local() };
    let world = World { bytes: (10_000, 2_000), ..World::local(64) };
    for each in [100, 1_000] {
        for shape in Shape::ALL {
            let items = shape.draw(64 * each, MEAN, 5);
            let outcome = simulate(&world, &settings, &items);
            let what = format!("seed 5, {shape}, {each} items a worker");
            whole(&outcome, &what);
            // The batch that the consumer waits for is admitted above the budget.
            let one = settings.targets.bytes as f64 * 1.3 + 1_000.0;
            assert!(outcome.peak_bytes <= BUDGET as f64 + one, "{what}: {} bytes", outcome.peak_bytes);
            assert!(outcome.peak_batches <= 64 * 4, "{what}: {} batches", outcome.peak_batches);
        }
    }
}

/// Seen in the engine as well, before it looked at answers between batches and left a run alone that is fed: 200 workers that slept
/// 0.94 ms an item reached 0.14 of the ideal on two cores, and since then 0.34 to 0.67.
#[test]
fn workers_that_finish_as_fast_as_batches_are_read_do_not_keep_batches_small() {
    let world = World { start: Start::Warm, ..World::local(200) };
    let items = Shape::PARETO.draw(200 * 1_000, MEAN, 1);
    let efficiency = |settings: &Settings| simulate(&world, settings, &items).efficiency();
    let settings = Settings::local();
    let blind = efficiency(&Settings { collects_between: false, ..settings });
    let seen = efficiency(&settings);
    assert!(blind < 0.5 && seen > 0.9, "seed 1: {blind}, {seen}");
}
