//! ADAPTIVE beside LOCAL and CLOUD, over network paths of several latencies.

use std::fs;
use std::time::Duration;

use clap::Parser;
use fastmap::{ExecPolicy, FastmapConfig, Options, Verbosity};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::functions::{Spin, Work as _, turns};
use crate::measure::{Entry, Method, Spread, rounds, seconds};
use crate::partial_results::Kept;
use crate::report::{Section, cell, machine};
use crate::workload::Service;

/// The first argument of the program that has it measure this.
pub(crate) const WORD: &str = "adaptive";

/// Ways to the service, in milliseconds there and back.
const WAYS: [u64; 3] = [1, 20, 200];
/// Seconds of work.
const WORK: [u64; 2] = [1, 10];
/// Milliseconds of an item.
const ITEMS: [u64; 2] = [1, 100];
/// Both can do a good part of the work where neither takes so many times as long as the other.
const BOTH: f64 = 1.5;

/// Measure ADAPTIVE beside LOCAL and CLOUD.
#[derive(Debug, Parser)]
#[command(name = "adaptive")]
struct Args {
    /// Which ways to the service, in milliseconds there and back; all if none is named.
    ways: Vec<u64>,
    /// Rounds of each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of work; both if none is named. Nothing is written then.
    #[arg(long)]
    work: Vec<u64>,
}

/// # Errors
/// If there is no second core, the service can't be started, or the report can't be written.
pub(crate) fn run(words: &[String]) -> Result<(), String> {
    let args = Args::parse_from(words);
    let ways = if args.ways.is_empty() { WAYS.to_vec() } else { args.ways };
    let method = Method {
        rounds: args.rounds.max(1),
        slot: Duration::ZERO,
        attempts: 1,
        quick: false,
        full: false,
        python: None,
    };
    let kept = Kept::open().map_err(|error| format!("nothing can be kept: {error}"))?;
    let may = sched_getaffinity(Pid::from_raw(0)).map_err(|error| error.to_string())?;
    let cores = cores(&may)?;
    for way in ways {
        let work = if args.work.is_empty() { &WORK[..] } else { &args.work };
        let section = measure(&method, way, work, cores)?;
        section.print();
        if args.work.is_empty() {
            kept.keep(&name(way), &section).map_err(|error| format!("nothing can be kept: {error}"))?;
        }
    }
    sched_setaffinity(Pid::from_raw(0), &may).map_err(|error| error.to_string())?;
    let sections: Vec<Section> = WAYS.iter().filter_map(|way| kept.find(&name(*way))).collect();
    if sections.len() < WAYS.len() {
        println!("\ndocs/adaptive.md is written when all ways are measured.");
        return Ok(());
    }
    write(&sections, method.rounds).map_err(|error| format!("the report can't be written: {error}"))
}

fn name(way: u64) -> String {
    format!("adaptive-{way}")
}

/// Runs this thread, and what it starts from now on, on one core.
fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|error| format!("core {core}: {error}"))
}

/// Two cores that this process may use.
fn cores(may: &CpuSet) -> Result<(usize, usize), String> {
    let mut cores = (0..CpuSet::count()).filter(|core| may.is_set(*core).unwrap_or(false));
    cores.next().zip(cores.next()).ok_or_else(|| "this takes two cores".to_owned())
}

fn pass(config: &FastmapConfig, items: u64, turns: u64) {
    let results = config.fastmap(Spin::call, (0..items).map(move |_| turns));
    assert_eq!(results.flatten().count() as u64, items, "each item has a result");
}

fn measure(
    method: &Method,
    way: u64,
    work: &[u64],
    (here, there): (usize, usize),
) -> Result<Section, String> {
    let mut section = Section::new(
        &format!("Round-trip time {way} ms"),
        "",
        &["work, items", "LOCAL, s", "CLOUD, s", "ADAPTIVE, s", "over the better", "useful"],
    );
    pin(there)?;
    let (_service, secret, url) = Service::start(1)?;
    let target = url.strip_prefix("http://").and_then(|target| target.parse().ok());
    let target = target.ok_or_else(|| format!("{url} is no address of plain HTTP"))?;
    let proxy = super::proxy::start(target, Duration::from_millis(way)).map_err(|error| error.to_string())?;
    pin(here)?;
    let turns_of = |milliseconds| turns(Duration::from_millis(milliseconds));
    let config = |policy| {
        let options = Options::new().exec_policy(policy).local_processes(1).verbosity(Verbosity::Quiet);
        let options = options.secret(&secret).cloud_url(format!("http://{proxy}"));
        let config = fastmap::init(options).map_err(|error| error.to_string())?;
        // Workers are there and the program is uploaded.
        pass(&config, 100, turns_of(1));
        Ok::<_, String>(config)
    };
    let configs = [
        ("LOCAL", config(ExecPolicy::Local)?),
        ("CLOUD", config(ExecPolicy::Cloud)?),
        ("ADAPTIVE", config(ExecPolicy::Adaptive)?),
    ];
    for work in work {
        for item in ITEMS {
            let (items, turns) = (work * 1000 / item, turns_of(item));
            let entry = |(name, config): &(&'static str, FastmapConfig)| {
                let config = config.clone();
                Entry::new(*name, move || seconds(|| pass(&config, items, turns)))
            };
            let outcome = rounds(method, configs.iter().map(entry).collect());
            let time = |name: &str| outcome.find(name).spread(|time| time);
            let better = outcome.least(&["LOCAL", "CLOUD"]);
            let over = outcome.find("ADAPTIVE").against(&better, |adaptive, better| adaptive / better);
            let helps = who(time("LOCAL"), time("CLOUD"));
            let cells = [cell(time("LOCAL")), cell(time("CLOUD")), cell(time("ADAPTIVE")), cell(over)];
            section
                .row(&format!("{work} s, {items} of {item} ms"), cells.into_iter().chain([helps.to_owned()]));
        }
    }
    section.rounds = method.rounds;
    Ok(section)
}

fn who(local: Option<Spread>, cloud: Option<Spread>) -> &'static str {
    match (local, cloud) {
        (Some(local), Some(cloud)) if cloud.median > local.median * BOTH => "LOCAL alone",
        (Some(local), Some(cloud)) if local.median > cloud.median * BOTH => "CLOUD alone",
        _ => "both",
    }
}

fn write(sections: &[Section], rounds: usize) -> std::io::Result<()> {
    let mut text = format!(
        "# ADAPTIVE, measured\n\n\
         One local worker on one core, a service with one worker (in a jail) on another. Both together \
         can therefore reach at best 0.5 of the time of one. The network between them is a TCP proxy that \
         delays bytes, on the service's core. The program was uploaded before; each map includes the \
         request to the service, the opening of a run and the start of its worker. LOCAL, CLOUD and \
         ADAPTIVE take turns, {rounds} rounds. A cell is the median and, in brackets, the range; *over \
         the better* is ADAPTIVE's time over that of the better one of the same round. *Both* help if \
         neither takes {BOTH} times as long as the other. Measurements that other processes disturbed are \
         not set aside, because the service is another process.\n\n\
         ```sh\n\
         scripts/bench adaptive        # all of it, 10 minutes; writes this file\n\
         scripts/bench adaptive 20     # one latency: kept, and written with the last missing one\n\
         ```\n\n\
         | | |\n|---|---|\n{}\n",
        machine()
    );
    for section in sections {
        text += &section.markdown();
    }
    text += "How ADAPTIVE decides, and its results in thousands of simulated worlds: \
             [its README](../backends/src/adaptive/README.md).\n\n\
             If both sides have a batch, its first loss counts: the batch is divided, and the item that hung or crashed is \
             answered or tried alone. Its tries on both sides count together. In 200 random worlds with such \
             items ADAPTIVE takes at most 1.16 times as long as the better of the two, and spends at most CLOUD's credits: \
             [tested worlds](../backends/src/adaptive/README.md#tested-worlds).\n";
    fs::write("docs/adaptive.md", text)
}
