//! Asks of 344 real penguins how sure we may be of their medians, by bootstrap: draw each group again
//! from itself, half a million times, and see how far the median moves.
//!
//! ```text
//! cargo run --release -p fastmap-examples --bin bootstrap
//! ```
//!
//! You'll see the median of four measurements for every species, island and sex with its 95 % interval,
//! and `bootstrap.svg` shows them; then the time that it took with `map` and with `fastmap`. Each group draws from a generator of its own
//! seed, so the numbers are the same each time, whichever worker computed them.

#![forbid(unsafe_code)]

mod chart;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use fastmap::{Options, fastmap_main};
use serde::{Deserialize, Serialize};

/// Part of the program, so that it runs from any folder; `data/README.md` tells where it comes from.
const PENGUINS: &str = include_str!("../../../data/penguins.csv");

/// Bootstrap the medians of the Palmer penguins with `map` and with `fastmap`.
#[derive(Parser)]
struct Args {
    /// Where to write the picture.
    #[arg(default_value = "bootstrap.svg")]
    output: PathBuf,
    #[command(flatten)]
    draws: Draws,
}

/// The context of the map.
#[derive(clap::Args, Clone, Copy, Serialize, Deserialize)]
struct Draws {
    /// How often each group is drawn again.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(100..))]
    resamples: u32,
    /// Seed of the random draws.
    #[arg(long, default_value_t = 2007)]
    seed: u64,
}

/// A row of the file. What was not measured says `NA` there and is `None` here.
#[derive(Deserialize)]
struct Penguin {
    species: String,
    island: String,
    #[serde(deserialize_with = "csv::invalid_option")]
    bill_length_mm: Option<f64>,
    #[serde(deserialize_with = "csv::invalid_option")]
    bill_depth_mm: Option<f64>,
    #[serde(deserialize_with = "csv::invalid_option")]
    flipper_length_mm: Option<f64>,
    #[serde(deserialize_with = "csv::invalid_option")]
    body_mass_g: Option<f64>,
    #[serde(deserialize_with = "csv::invalid_option")]
    sex: Option<Sex>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sex {
    Female,
    Male,
}

/// One item of the map: the values of one measurement in one group of penguins.
#[derive(Clone, Serialize, Deserialize)]
struct Sample {
    number: u64,
    values: Vec<f64>,
}

/// What the map gives for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Estimate {
    median: f64,
    low: f64,
    high: f64,
}

/// The heavy function: the sample's median, and between what bounds 95 % of its resamples' medians lie.
fn estimate(draws: &Draws, Sample { number, mut values }: Sample) -> Estimate {
    let mut random = fastrand::Rng::with_seed(draws.seed.wrapping_add(number));
    let mut drawn = values.clone();
    let mut medians: Vec<f64> = (0..draws.resamples)
        .map(|_| {
            drawn.fill_with(|| values[random.usize(..values.len())]);
            median(&mut drawn)
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    let quantile = |share: f64| medians[(share * (medians.len() - 1) as f64).round() as usize];
    Estimate { median: median(&mut values), low: quantile(0.025), high: quantile(0.975) }
}

fn median(values: &mut [f64]) -> f64 {
    let half = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let lower = if even { below.iter().copied().fold(f64::MIN, f64::max) } else { upper };
    f64::midpoint(lower, upper)
}

type Group = (String, String, &'static str, Sex);

fn read_groups() -> Result<BTreeMap<Group, Vec<f64>>, csv::Error> {
    let mut groups = BTreeMap::<Group, Vec<f64>>::new();
    for row in csv::Reader::from_reader(PENGUINS.as_bytes()).deserialize() {
        let row: Penguin = row?;
        let Some(sex) = row.sex else { continue };
        for (name, value) in [
            ("bill length, mm", row.bill_length_mm),
            ("bill depth, mm", row.bill_depth_mm),
            ("flipper length, mm", row.flipper_length_mm),
            ("body mass, g", row.body_mass_g),
        ] {
            let Some(value) = value else { continue };
            groups.entry((row.species.clone(), row.island.clone(), name, sex)).or_default().push(value);
        }
    }
    Ok(groups)
}

fn run() -> Result<(), Box<dyn Error>> {
    let Args { output, draws } = Args::parse();
    let groups = read_groups()?;
    let samples = || (0..).zip(groups.values().cloned()).map(|(number, values)| Sample { number, values });

    let started = Instant::now();
    let config = fastmap::init(Options::new())?;
    let estimates: Vec<Estimate> =
        config.fastmap_with(draws, estimate, samples()).label("bootstrap").collect::<Result<_, _>>()?;
    let fastmap_time = started.elapsed().as_secs_f64();

    println!(
        "{:10} {:10} {:19} {:6} {:>3} {:>8}   95 % interval",
        "species", "island", "measurement", "sex", "n", "median"
    );
    for (((species, island, name, sex), values), Estimate { median, low, high }) in
        groups.iter().zip(&estimates)
    {
        let (n, sex) = (values.len(), format!("{sex:?}").to_lowercase());
        println!("{species:10} {island:10} {name:19} {sex:6} {n:3} {median:8.2}   {low:.2} to {high:.2}");
    }
    let apart = estimates.chunks(2).filter(|pair| pair[0].high < pair[1].low).count();
    println!(
        "\nIn {apart} of {} comparisons the males' interval lies wholly above the females'.",
        estimates.len() / 2
    );
    std::fs::write(&output, chart::draw(groups.keys().zip(&estimates)))?;
    println!("The picture is in {}.", output.display());

    let started = Instant::now();
    let by_map: Vec<Estimate> = samples().map(|sample| estimate(&draws, sample)).collect();
    let map_time = started.elapsed().as_secs_f64();
    assert_eq!(by_map, estimates, "fastmap gives what map gives, in the same order");
    println!("{} groups, {} resamples each:", estimates.len(), draws.resamples);
    println!("  map      {map_time:6.2} s\n  fastmap  {fastmap_time:6.2} s  the same numbers");
    Ok(())
}

fastmap_main!(run);
