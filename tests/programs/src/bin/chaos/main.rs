//! Maps of many shapes while chaos strikes, in rounds: workers are killed and stopped, items are lethal, the system
//! refuses what a new worker needs, consumers leave, the host is suspended or killed. After each round every item
//! must have been answered once, in its place and rightly, and nothing may be left. See `scripts/chaos`.

mod host;
mod items;
mod plan;
mod round;
mod storm;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plan::Plan;
use round::Outcome;
use storm::Blows;

/// Rounds at a time: most of a round is waiting, and one storm should meet the load of others.
const LANES: usize = 3;

/// What all rounds came to.
#[derive(Default)]
struct Sum {
    rounds: u64,
    blows: Blows,
    items: u64,
    lethal: u64,
    blamed: u64,
    cut: u64,
    resumed: u64,
    failures: u64,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    fastmap::enter();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, seed, round] = arguments.as_slice()
        && ["host", "again"].contains(&role.as_str())
    {
        let mut plan = Plan::draw(seed.parse()?, round.parse()?);
        if role == "again" {
            plan = plan.in_peace();
        }
        host::run(&plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut seconds, mut only) = (30, None);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} has no value", pair[0]).into()) };
        match name.as_str() {
            "--seconds" => seconds = value.parse()?,
            "--seed" => seed = value.parse()?,
            "--round" => only = Some(value.parse()?),
            other => return Err(format!("unknown: {other} (--seconds N, --seed S, --round R)").into()),
        }
    }
    println!("seed {seed}, {seconds} s");
    let sum = match only {
        Some(round) => {
            println!("{:#?}", Plan::draw(seed, round));
            let sum = Mutex::default();
            add(&sum, seed, round, &round::play(seed, round));
            sum
        }
        None => rounds(seed, Duration::from_secs(seconds)),
    };
    Ok(tell(&sum.into_inner().expect("no lane panics while it counts")))
}

fn rounds(seed: u64, time: Duration) -> Mutex<Sum> {
    let begun = Instant::now();
    let (sum, next) = (Mutex::default(), AtomicU64::new(0));
    scope(|lanes| {
        for _ in 0..LANES {
            lanes.spawn(|| {
                while begun.elapsed() < time {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    add(&sum, seed, round, &round::play(seed, round));
                }
            });
        }
    });
    sum
}

fn add(sum: &Mutex<Sum>, seed: u64, round: u64, outcome: &Outcome) {
    let mut sum = sum.lock().expect("no lane panics while it counts");
    sum.rounds += 1;
    sum.blows += outcome.blows;
    sum.items += outcome.items;
    sum.lethal += outcome.lethal;
    sum.blamed += outcome.blamed;
    sum.cut += outcome.cut;
    sum.resumed += outcome.resumed;
    if !outcome.wrong.is_empty() {
        sum.failures += 1;
        println!(
            "round {round} went wrong (again: --seed {seed} --round {round}): {:#?}",
            Plan::draw(seed, round)
        );
        // A bad round may say the same of thousands of items.
        outcome.wrong.iter().take(20).for_each(|wrong| println!("  {wrong}"));
    }
}

fn tell(sum: &Sum) -> ExitCode {
    let Blows { kills, stops, suspensions, interrupts, slowed, hosts } = sum.blows;
    println!(
        "{} rounds, {} items answered once, in their place and rightly: {} lethal ones by their own error, {} blamed \
         for four kills in them; {} maps cut short by what the system refused; {} hosts that went on from checkpoints",
        sum.rounds, sum.items, sum.lethal, sum.blamed, sum.cut, sum.resumed
    );
    println!(
        "struck: {kills} workers killed, {stops} stopped, {slowed} slowed, {interrupts} signals to be ignored, \
         {suspensions} suspensions, {hosts} hosts killed"
    );
    println!("{} rounds went wrong", sum.failures);
    if sum.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
