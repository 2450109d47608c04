//! Counts primes, first with plain `map`, then with `fastmap`: the same answer, sooner.
//!
//! ```text
//! cargo run --release -p fastmap-examples --bin quickstart
//! ```
//!
//! You'll see how many primes lie below twenty million, the time that each way took, and how many times
//! as fast the second was: about as many times as your machine has free cores.

#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use fastmap::{Options, fastmap_main};

/// Count primes with `map` and with `fastmap`.
#[derive(Parser)]
struct Args {
    /// Count the primes below this number.
    #[arg(long, default_value_t = 20_000_000)]
    below: u64,
    /// Numbers counted by one call of the function.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    block: u64,
}

fn is_prime(n: u64) -> bool {
    if n < 4 {
        return n >= 2;
    }
    !n.is_multiple_of(2) && (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// The function that both ways call: an ordinary one, which knows nothing of processes.
fn count_primes((from, to): (u64, u64)) -> usize {
    (from..to).filter(|&n| is_prime(n)).count()
}

fn run() -> Result<(), Box<dyn Error>> {
    let Args { below, block } = Args::parse();
    let blocks = || (0..below).step_by(block as usize).map(|from| (from, below.min(from + block)));
    println!("Primes below {below}, in {} blocks", blocks().count());

    let started = Instant::now();
    let by_map: Vec<usize> = blocks().map(count_primes).collect();
    let map_time = started.elapsed().as_secs_f64();
    println!("  map      {map_time:6.2} s  {} primes", by_map.iter().sum::<usize>());

    let started = Instant::now();
    let config = fastmap::init(Options::new())?;
    let by_fastmap: Vec<usize> =
        config.fastmap(count_primes, blocks()).label("count primes").collect::<Result<_, _>>()?;
    let fastmap_time = started.elapsed().as_secs_f64();
    println!("  fastmap  {fastmap_time:6.2} s  {} primes", by_fastmap.iter().sum::<usize>());

    assert_eq!(by_map, by_fastmap, "fastmap gives what map gives, in the same order");
    println!("Equal block by block; fastmap was {:.2} times as fast.", map_time / fastmap_time);
    Ok(())
}

fastmap_main!(run);
