//! A program that maps under the policy that its environment gives, in the ways that its first argument names.

use std::env;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastmap::backends::cloud::{Cloud, CloudOptions};
use fastmap::{FastmapConfig, Options, Verbosity, fastmap_main};
use fastmap_test_programs::report;

/// Bytes of a result that costs something.
const RESULT: usize = 100_000;

fn square(n: u64) -> u64 {
    n * n
}

fn bytes(n: u64) -> Vec<u8> {
    vec![n as u8; RESULT]
}

fn naps(config: &FastmapConfig, items: u64, milliseconds: u64) {
    let nap = |(n, milliseconds): (u64, u64)| {
        sleep(Duration::from_millis(milliseconds));
        n
    };
    report(config.fastmap(nap, (0..items).map(|n| (n, milliseconds))).label("naps"), |n| n);
}

fn watched(config: &FastmapConfig, items: u64, milliseconds: u64) -> Result<(), Box<dyn Error>> {
    static READ: AtomicU64 = AtomicU64::new(0);
    let nap = |(n, milliseconds): (u64, u64)| {
        sleep(Duration::from_millis(milliseconds));
        n * n
    };
    let read = move |n| {
        READ.fetch_add(1, Ordering::Relaxed);
        (n, milliseconds)
    };
    for (n, answer) in (0..).zip(config.fastmap(nap, (0..items).map(read)).label("watched")) {
        if answer? != n * n {
            println!("wrong {n}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        println!("told {} {} {now}", n + 1, READ.load(Ordering::Relaxed));
    }
    Ok(())
}

fn impatient() -> Result<FastmapConfig, Box<dyn Error>> {
    let mut options = CloudOptions::new(env::var("FASTMAP_CLOUD_URL")?, env::var("FASTMAP_SECRET")?.parse()?);
    options.patience = Duration::from_secs(3);
    Ok(fastmap::init(Options::new().verbosity(Verbosity::Quiet).backend(Cloud::new(options)?))?)
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (scenario, rest) = arguments.split_first().ok_or("the first argument is a scenario")?;
    let number = |at: usize| rest.get(at).map_or(Ok(0), |text| text.parse::<u64>());
    let config = match fastmap::init(Options::new()) {
        Ok(config) => config,
        Err(error) => {
            println!("init {:?} {error}", error.kind());
            return Ok(());
        }
    };
    match scenario.as_str() {
        // So many items in so many maps of one config.
        "squares" => {
            for map in 0..number(1)?.max(1) {
                report(config.fastmap(square, 0..number(0)?).label(format!("squares {map}")), square);
            }
        }
        // So many items of so many milliseconds, each with a result that costs something.
        "heavy" => {
            let heavy = |(n, milliseconds): (u64, u64)| {
                sleep(Duration::from_millis(milliseconds));
                bytes(n)
            };
            let milliseconds = number(1)?;
            report(config.fastmap(heavy, (0..number(0)?).map(|n| (n, milliseconds))), bytes);
        }
        // Nobody can tell how many there are.
        "endless" => report(config.fastmap(square, (0..number(0)?).filter(|_| true)), square),
        "bytes" => report(config.fastmap(bytes, 0..number(0)?), bytes),
        "bytes-unordered" => {
            let mut good = 0;
            for answer in config.fastmap(bytes, 0..number(0)?).unordered() {
                match answer {
                    Ok((index, value)) if value == bytes(index as u64) => good += 1,
                    Ok((index, _)) => println!("wrong {index}"),
                    Err(error) => println!("error {:?} - {error}", error.kind()),
                }
            }
            println!("answers {good} ok {good}");
        }
        // So many items of so many milliseconds.
        "sleep" => naps(&config, number(0)?, number(1)?),
        // The same, for who does not wait two minutes for a service that is gone.
        "sleep-impatiently" => naps(&impatient()?, number(0)?, number(1)?),
        // The same; workers and host say each item.
        "told" => {
            let made = |(n, milliseconds): (u64, u64)| {
                sleep(Duration::from_millis(milliseconds));
                eprintln!("<made {n}>");
                n
            };
            let milliseconds = number(1)?;
            for answer in config.fastmap(made, (0..number(0)?).map(|n| (n, milliseconds))) {
                println!("<told {}>", answer?);
            }
        }
        // The same; each result is told as it comes, with how many items were read by then, and when.
        "watched" => watched(&config, number(0)?, number(1)?)?,
        "prints" => {
            let prints = |n: u64| {
                println!("<out {n}>");
                eprintln!("<err {n}>");
                n
            };
            report(config.fastmap(prints, 0..number(0)?), |n| n);
        }
        // One item of so many ends its process.
        "aborts" => {
            let aborts = |(n, lethal): (u64, u64)| {
                if n == lethal {
                    eprintln!("the last words");
                    std::process::abort();
                }
                n
            };
            let lethal = number(1)?;
            report(config.fastmap(aborts, (0..number(0)?).map(|n| (n, lethal))), |n| n);
        }
        other => return Err(format!("no scenario {other:?}").into()),
    }
    Ok(())
}

fastmap_main!(run);
