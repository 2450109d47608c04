//! Maps while a process of theirs stands still for 16 to 60 seconds: the service with all that it has started
//! (as on a machine that is paused), the service alone (as by a debugger or swap), or the program with its
//! workers (as by Ctrl-Z). Prints how much longer than the stop a map waited at worst, and which maps went
//! wrong. See `scripts/try-stops`.

mod plan;
mod trial;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;

use plan::{Plan, STOPS};
use trial::{Seen, Service};

/// A map may wait this much longer than its program or service stood still.
const MOST: Duration = Duration::from_secs(5);

#[derive(Debug, Parser)]
struct Arguments {
    /// The command `fastmap`.
    #[arg(long)]
    service: String,
    /// The program that maps.
    #[arg(long)]
    host: String,
    /// Stops in all.
    #[arg(long, default_value_t = 200)]
    stops: usize,
    /// Services, and maps, at a time.
    #[arg(long, default_value_t = 20)]
    lanes: usize,
    /// What all is drawn from; else from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// This map alone.
    #[arg(long)]
    map: Option<u64>,
}

/// What came of the maps of one kind.
#[derive(Debug, Default)]
struct Row {
    maps: u64,
    stops: u64,
    stopped: Duration,
    worst: Duration,
    late: u64,
    wrong: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let seed = arguments.seed.unwrap_or(clock);
    println!("seed {seed}");
    let maps = arguments.stops.div_ceil(STOPS);
    let lanes_wanted = if arguments.map.is_some() { 1 } else { arguments.lanes.min(maps) };
    let (next, rows) = (AtomicUsize::new(0), Mutex::<BTreeMap<_, Row>>::default());
    scope(|lanes| {
        for _ in 0..lanes_wanted {
            lanes.spawn(|| {
                let service = Service::start(&arguments.service);
                loop {
                    let drawn = next.fetch_add(1, Ordering::Relaxed);
                    if drawn >= maps || arguments.map.is_some() && drawn > 0 {
                        return;
                    }
                    let map = arguments.map.unwrap_or(drawn as u64);
                    let plan = Plan::draw(seed, map);
                    let seen = trial::play(&service, &arguments.host, &plan);
                    tell(map, &plan, &seen);
                    let mut rows = rows.lock().expect("no lane panics while it counts");
                    rows.entry((plan.policy, plan.whom)).or_default().add(&seen);
                }
            });
        }
    });
    let rows = rows.into_inner().expect("no lane panics while it counts");
    println!(
        "\n| policy | what stood still | maps | stops | seconds | worst wait beyond the stop | more than 5 s | wrong |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for ((policy, whom), row) in &rows {
        let Row { maps, stops, stopped, worst, late, wrong } = row;
        let (policy, whom, stopped) = (policy.name(), whom.words(), stopped.as_secs());
        println!(
            "| {policy} | {whom} | {maps} | {stops} | {stopped} | {:.1} s | {late} | {wrong} |",
            worst.as_secs_f64()
        );
    }
    match rows.values().all(|row| row.late == 0 && row.wrong == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// A line for each map, and all that is known of one that went wrong.
fn tell(map: u64, plan: &Plan, seen: &Seen) {
    let Seen { stops, worst, wrong, stderr, .. } = seen;
    let stops: Vec<u64> = stops.iter().map(Duration::as_secs).collect();
    let (policy, whom, item) = (plan.policy.name(), plan.whom.words(), plan.item);
    println!(
        "map {map}: {policy}, {whom} for {stops:?} s, items of {item:?}: {:.1} s beyond",
        worst.as_secs_f64()
    );
    if *worst > MOST || wrong.is_some() {
        let wrong = wrong.as_deref().unwrap_or("late");
        println!("  {wrong}; {plan:?}; it said:\n{stderr}");
    }
}

impl Row {
    fn add(&mut self, seen: &Seen) {
        self.maps += 1;
        self.stops += seen.stops.len() as u64;
        self.stopped += seen.stops.iter().sum::<Duration>();
        self.worst = self.worst.max(seen.worst);
        self.late += u64::from(seen.worst > MOST);
        self.wrong += u64::from(seen.wrong.is_some());
    }
}
