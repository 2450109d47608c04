//! Prints the simulator's tables as Markdown. See `README.md` beside this package's manifest.

#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use fastmap_simulator::{Settings, experiments};

/// Play fastmap's batching in virtual time.
#[derive(Debug, Parser)]
struct Args {
    /// Which tables.
    experiment: Experiment,
    /// Draws the items; the same seed gives the same tables.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws to take the mean over, for `constants`.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Experiment {
    /// Efficiency of all shapes with 2 to 10,000 workers, and what the maps held and sent.
    Table,
    /// What each constant of the rule does.
    Constants,
    /// What a batch may cost the host of 10,000 workers.
    Host,
}

fn main() {
    let args = Args::parse();
    let settings = Settings::local();
    let text = match args.experiment {
        Experiment::Table => experiments::table(&settings, args.seed),
        Experiment::Constants => experiments::constants(&settings, args.seed, args.seeds.max(1)),
        Experiment::Host => experiments::host(&settings, args.seed),
    };
    print!("{text}");
}
