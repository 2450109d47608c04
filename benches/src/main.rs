//! Measures fastmap beside its peers, in one run on one machine, and writes what came out to `docs/benchmarks.md`.
//! Run by `scripts/bench`; `benches/README.md` says where to find what.

#![forbid(unsafe_code)]

mod adaptive;
mod chart;
mod contestant;
mod estimate;
mod figures;
mod functions;
mod measure;
mod micro;
mod partial_results;
mod processes;
mod python;
mod report;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::measure::Method;
use crate::partial_results::Kept;

/// Measure fastmap beside its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Which workloads, for example `W1 W3`; all if none is named.
    workloads: Vec<String>,
    /// Few rounds and short ones; nothing is written.
    #[arg(long)]
    quick: bool,
    /// Keep what is measured; the report is written with the last missing workload.
    #[arg(long, conflicts_with = "quick")]
    add: bool,
    /// Rounds of each workload.
    #[arg(long)]
    rounds: Option<usize>,
    /// More data and longer runs where that takes minutes.
    #[arg(long)]
    full: bool,
    /// A Python that has the Python peers.
    #[arg(long, value_name = "EXECUTABLE")]
    python: Option<PathBuf>,
    /// The simulator, whose tables a full run adds.
    #[arg(long, value_name = "EXECUTABLE")]
    simulator: Option<PathBuf>,
}

fn main() -> ExitCode {
    // A worker of one of them never gets beyond.
    fastmap::enter();
    contestant::raw::enter();
    contestant::procspawn::enter();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [child, arguments @ ..] = words.as_slice()
        && child == crate::workload::CHILD
    {
        crate::workload::child(arguments);
        return ExitCode::SUCCESS;
    }
    if words.first().is_some_and(|word| word == micro::WORD) {
        // The word filters the benchmarks, by their module.
        divan::Divan::default().config_with_args().run_benches();
        return ExitCode::SUCCESS;
    }
    let done = match words.first() {
        Some(word) if word == adaptive::WORD => adaptive::run(&words),
        Some(word) if word == estimate::WORD => estimate::run(),
        _ => run(Args::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), String> {
    let chosen = crate::workload::choose(&args.workloads)?;
    let method = Method {
        rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 7 }).max(1),
        slot: Duration::from_millis(if args.quick { 100 } else { 200 }),
        attempts: if args.quick { 2 } else { 5 },
        quick: args.quick,
        full: args.full,
        python: args.python,
    };
    let kept = (!method.quick)
        .then(Kept::open)
        .transpose()
        .map_err(|error| format!("nothing can be kept: {error}"))?;
    for (name, measure) in chosen {
        let mut section = measure(&method);
        section.rounds = method.rounds;
        section.print();
        if let Some(kept) = &kept {
            kept.keep(name, &section).map_err(|error| format!("{name} can't be kept: {error}"))?;
        }
    }
    let Some(kept) = kept.filter(|_| args.add || args.workloads.is_empty()) else {
        println!("\nNothing is written: that takes a run of all workloads, or --add, and no --quick.");
        return Ok(());
    };
    let (mut sections, mut missing) = (Vec::new(), Vec::new());
    for (name, _) in crate::workload::ALL {
        match kept.find(name) {
            Some(section) => sections.push(section),
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        println!("\nKept. The report is written when these are measured, too: {}", missing.join(" "));
        return Ok(());
    }
    let simulated = args.simulator.as_deref().map(report::simulated).transpose()?;
    report::write(&method, &sections, simulated.as_deref())
        .map_err(|error| format!("the report can't be written: {error}"))
}
