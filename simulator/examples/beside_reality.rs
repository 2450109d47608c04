//! The simulator beside the engine: the same items, once for real on this machine and once in virtual time.
//!
//! `cargo run --release -p fastmap-simulator --example beside_reality -- WORKERS ITEMS-PER-WORKER [sleep]`.
//! Items spin, so that no more workers than cores make sense; with `sleep` they only wait.

use std::time::{Duration, Instant};

use fastmap::{ExecPolicy, Options, Verbosity};
use fastmap_simulator::world::Start;
use fastmap_simulator::{Items, Settings, Shape, World, simulate};

/// As in the run that was measured first.
const MEAN: Duration = Duration::from_micros(940);

fn spin(nanos: u64) -> u64 {
    let begun = Instant::now();
    while (begun.elapsed().as_nanos() as u64) < nanos {}
    begun.elapsed().as_nanos() as u64
}

fn sleep(nanos: u64) -> u64 {
    let begun = Instant::now();
    std::thread::sleep(Duration::from_nanos(nanos));
    begun.elapsed().as_nanos() as u64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    fastmap::enter();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| words.get(at).map_or(Ok(default), |word| word.parse::<usize>());
    let (workers, each) = (number(0, 2)?, number(1, 1000)?);
    let sleeps = words.get(2).is_some_and(|word| word == "sleep");
    println!("| items | real | simulated |\n|---|---|---|");
    for shape in Shape::ALL {
        let wanted = shape.draw(workers * each, MEAN, 1);
        let wanted: Vec<u64> = (0..wanted.count()).map(|item| wanted.between(item, item + 1)).collect();
        let options = Options::new()
            .exec_policy(ExecPolicy::Local)
            .local_processes(workers)
            .verbosity(Verbosity::Quiet);
        let config = fastmap::init(options)?;
        let mut world = World::local(workers);
        if sleeps {
            // To start many processes on few cores takes long, which is not what is simulated.
            config.fastmap(sleep, vec![50_000_000; workers]).try_for_each(|slept| slept.map(drop))?;
            world.start = Start::Warm;
        }
        let begun = Instant::now();
        let map = if sleeps { config.fastmap(sleep, wanted) } else { config.fastmap(spin, wanted) };
        let taken = map.collect::<Result<Vec<u64>, _>>()?;
        let makespan = begun.elapsed();
        // What the items truly took is what the simulator is given.
        let items = Items::of_nanos(taken);
        let real = items.total() as f64 / (workers as f64 * makespan.as_nanos() as f64);
        let simulated = simulate(&world, &Settings::local(), &items);
        println!("| {shape} | {real:.3} | {:.3} |", simulated.efficiency());
    }
    Ok(())
}
