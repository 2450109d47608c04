//! What jails cost, and what a neighbour of attackers keeps of its speed. `measure start`: from a map's begin to its first
//! result, with and without jails. `measure neighbours`: the throughput of one jailed worker, alone and beside each kind
//! of attacker; fails if it keeps less than four fifths.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastmap::FastmapConfig;
use fastmap::backends::{Local, LocalOptions};
use fastmap_sandbox::jail::Limits;
use fastmap_test_jails::{acts, config, jailed, limits, pool};

fn main() {
    fastmap::enter();
    match std::env::args().nth(1).as_deref() {
        Some("start") => start(),
        Some("neighbours") => neighbours(),
        _ => eprintln!("usage: measure start | neighbours"),
    }
}

fn start() {
    let jails = jailed(limits());
    let local = || config(Local::new(LocalOptions::new(1)).expect("a pool without workers"));
    let jail = || config(pool(&jails, 1));
    let first: [(&str, &dyn Fn() -> FastmapConfig); 2] = [("plain", &local), ("jailed", &jail)];
    let mut times = [Vec::new(), Vec::new()];
    // In turn, so that what else the machine does hits both.
    for _ in 0..200 {
        for ((_, make), times) in first.iter().zip(&mut times) {
            let started = Instant::now();
            let config = make();
            assert!(config.fastmap(acts::work, [1u64]).next().is_some_and(|result| result.is_ok()));
            times.push(started.elapsed());
        }
    }
    for ((name, _), times) in first.iter().zip(&mut times) {
        times.sort_unstable();
        println!(
            "first result {name}: p50 {:.1?}, p95 {:.1?}",
            times[times.len() / 2],
            times[times.len() * 95 / 100]
        );
    }
    let speeds = first.map(|(name, make)| {
        let config = make();
        let started = Instant::now();
        assert_eq!(config.fastmap(acts::work, 0..2_000_000u64).flatten().count(), 2_000_000);
        (name, 2e6 / started.elapsed().as_secs_f64())
    });
    println!("items/s: {speeds:.0?}");
}

/// Items per second of one jailed worker, over `time`.
fn speed(time: Duration) -> f64 {
    let config = config(pool(&jailed(limits()), 1));
    let mut map = config.fastmap(acts::work, 0u64..);
    assert!(map.next().is_some_and(|result| result.is_ok()));
    let started = Instant::now();
    let mut items = 0;
    while started.elapsed() < time {
        items += usize::from(map.next().is_some_and(|result| result.is_ok()));
    }
    items as f64 / started.elapsed().as_secs_f64()
}

type Attack = (&'static str, fn() -> u32);

/// What attackers do with each item of an endless map, by number.
const ATTACKS: [Attack; 5] = [
    ("spinner", acts::spin),
    ("fork bomb", acts::fork_bomb),
    ("thread bomb", || acts::thread_bomb().min(acts::spin())),
    ("memory bomb", acts::eat_memory),
    ("log flood", acts::flood),
];

/// Attacks with one jailed worker until told to stop; gives how many items ended, and how the last one did.
fn attack(number: usize, stop: &AtomicBool) -> (usize, String) {
    let config = config(pool(&jailed(Limits { memory: 128 << 20, ..limits() }), 1));
    let items = std::iter::repeat(number);
    let map = config.fastmap(|number: usize| ATTACKS[number].1(), items).item_timeout(Duration::from_secs(1));
    let mut ends = 0;
    let mut last = String::new();
    for result in map {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ends += 1;
        last = result.map_or_else(|error| error.to_string(), |value| value.to_string());
    }
    last.truncate(100);
    (ends, last)
}

fn neighbours() {
    const TIME: Duration = Duration::from_secs(5);
    let _warm = speed(Duration::from_secs(1));
    let mut all_kept = true;
    for (number, (name, _)) in ATTACKS.iter().enumerate() {
        let alone = speed(TIME);
        let stop = AtomicBool::new(false);
        let (beside, (ends, last)) = std::thread::scope(|scope| {
            let attacker = scope.spawn(|| attack(number, &stop));
            let beside = speed(TIME);
            stop.store(true, Ordering::Relaxed);
            (beside, attacker.join().expect("it ends"))
        });
        let kept = beside / alone;
        all_kept &= kept >= 0.8;
        println!(
            "beside a {name}: {alone:.0} -> {beside:.0} items/s, {:.0} % kept; {ends} ends: {last}",
            kept * 100.0
        );
    }
    assert!(all_kept, "less than four fifths are left beside an attacker");
}
