//! Prints the simulator's tables as Markdown. See `README.md` beside this package's manifest.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use fastmap_backends::adaptive::policy::Options;
use fastmap_simulator::choice::{Ranges, Report};
use fastmap_simulator::{Settings, experiments};

/// Play fastmap's batching in virtual time.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Efficiency of all shapes with 2 to 10,000 workers, and what the maps held and sent.
    Table(Draw),
    /// What each constant of the rule does.
    Constants(Draw),
    /// What a batch may cost the host of 10,000 workers.
    Host(Draw),
    /// ADAPTIVE beside LOCAL and CLOUD in random worlds.
    Worlds(Box<Worlds>),
}

#[derive(Debug, clap::Args)]
struct Worlds {
    /// The first world's seed; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many worlds.
    #[arg(long, default_value_t = 5000)]
    worlds: u64,
    /// How many of the worst to print.
    #[arg(long, default_value_t = 3)]
    worst: usize,
    #[command(flatten)]
    ranges: Ranges,
}

#[derive(Debug, clap::Args)]
struct Draw {
    /// Draws the items; the same seed gives the same tables.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws to take the mean over, for `constants`.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
}

fn main() {
    let settings = Settings::local();
    let text = match Args::parse().command {
        Command::Table(draw) => experiments::table(&settings, draw.seed),
        Command::Constants(draw) => experiments::constants(&settings, draw.seed, draw.seeds.max(1)),
        Command::Host(draw) => experiments::host(&settings, draw.seed),
        Command::Worlds(asked) => {
            let Worlds { seed, worlds, worst, ranges } = *asked;
            let report = Report::run(&ranges, Options::default(), seed, worlds.max(1));
            report.table() + "\n" + &report.worst_lines(worst)
        }
    };
    print!("{text}");
}
