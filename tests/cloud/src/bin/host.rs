//! A program that maps under the policy that its environment gives, in the ways that its first argument names.

use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastmap::backends::cloud::{Cloud, CloudOptions, Confirm, ConfirmError, Estimate};
use fastmap::backends::{Local, LocalOptions};
use fastmap::{FastmapConfig, Options, Verbosity, fastmap_main};
use fastmap_test_programs::{LIMIT, report, until};

/// Bytes of a result that costs something.
const RESULT: usize = 100_000;

fn square(n: u64) -> u64 {
    n * n
}

fn bytes(n: u64) -> Vec<u8> {
    vec![n as u8; RESULT]
}

/// The local time at the begin of all time, and the language, as a function finds them.
fn surroundings(_: u64) -> String {
    sleep(Duration::from_millis(5));
    let begin = chrono::DateTime::UNIX_EPOCH.with_timezone(&chrono::Local);
    format!("{begin} {:?}", env::var("LANG"))
}

#[inline(never)]
fn a_place_in_the_function(n: u64) -> u64 {
    let none: Vec<u64> = Vec::new();
    std::hint::black_box(none)[n as usize]
}

fn panics(n: u64) -> u64 {
    a_place_in_the_function(n) + 1
}

/// Items that nothing makes smaller.
fn large_items(config: &FastmapConfig, items: u64, bytes: u64) {
    let made = move |n: u64| {
        let mut state = n + 1;
        let next = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..bytes).map(next).collect::<Vec<u8>>()
    };
    let sum = |bytes: Vec<u8>| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    report(config.fastmap(sum, (0..items).map(made)), move |n| sum(made(n)));
}

fn naps(config: &FastmapConfig, items: u64, milliseconds: u64) {
    let nap = |(n, milliseconds): (u64, u64)| {
        sleep(Duration::from_millis(milliseconds));
        n
    };
    report(config.fastmap(nap, (0..items).map(|n| (n, milliseconds))).label("naps"), |n| n);
}

/// Items of so many milliseconds, of which one says each time that it begins, and then ends its worker or never ends.
fn lethal(config: &FastmapConfig, items: u64, milliseconds: u64, which: u64, hangs: bool) {
    let function = |(n, milliseconds, which, hangs): (u64, u64, u64, bool)| {
        if n == which {
            println!("<begun {n}>");
            if hangs {
                loop {
                    sleep(Duration::from_secs(1));
                }
            }
            std::process::abort();
        }
        sleep(Duration::from_millis(milliseconds));
        n
    };
    report(config.fastmap(function, (0..items).map(move |n| (n, milliseconds, which, hangs))), |n| n);
}

/// A map of this number of items, or up to a line "enough" on standard input.
fn watched(config: &FastmapConfig, items: u64, milliseconds: u64) -> Result<(), Box<dyn Error>> {
    static READ: AtomicU64 = AtomicU64::new(0);
    static ENOUGH: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        if std::io::stdin().lines().any(|line| line.is_ok_and(|line| line == "enough")) {
            ENOUGH.store(true, Ordering::Relaxed);
        }
    });
    let nap = |(n, milliseconds): (u64, u64)| {
        sleep(Duration::from_millis(milliseconds));
        n * n
    };
    let read = move |n| {
        READ.fetch_add(1, Ordering::Relaxed);
        (n, milliseconds)
    };
    let input = (0..items).take_while(|_| !ENOUGH.load(Ordering::Relaxed)).map(read);
    for (n, answer) in (0..).zip(config.fastmap(nap, input).label("watched")) {
        if answer? != n * n {
            println!("wrong {n}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        println!("told {} {} {now}", n + 1, READ.load(Ordering::Relaxed));
    }
    Ok(())
}

/// What the environment says of the service.
fn cloud_options() -> Result<CloudOptions, Box<dyn Error>> {
    Ok(CloudOptions::new(env::var("FASTMAP_CLOUD_URL")?, env::var("FASTMAP_SECRET")?.parse()?))
}

fn with_cloud(options: CloudOptions) -> Result<FastmapConfig, Box<dyn Error>> {
    Ok(fastmap::init(Options::new().verbosity(Verbosity::Quiet).backend(Cloud::new(options)?))?)
}

/// Two maps in turn, each left once the file of its name is there.
fn left(config: &FastmapConfig, folder: &Path) -> Result<(), Box<dyn Error>> {
    let nap = |n: u64| {
        sleep(Duration::from_millis(10));
        n
    };
    for (name, items) in [("first", 9000u64), ("second", 8000)] {
        for answer in config.fastmap(nap, 0..items).label(name) {
            answer?;
            if folder.join(name).exists() {
                break;
            }
        }
        println!("<left {name}>");
    }
    Ok(())
}

/// Says yes as soon as nobody needs to know.
#[derive(Debug)]
struct Late {
    asked: Sender<()>,
}

impl Confirm for Late {
    fn charges(&self, _: &Estimate) -> Result<(), ConfirmError> {
        Err(ConfirmError::NoTerminal)
    }

    fn charges_cancellable(&self, _: &Estimate, wanted: &dyn Fn() -> bool) -> Result<(), ConfirmError> {
        let _gone = self.asked.send(());
        until("the end of the map", LIMIT, || !wanted());
        Ok(())
    }
}

/// A map that is left while it is asked whether it may cost something.
fn confirmed_late() -> Result<(), Box<dyn Error>> {
    let (asked, question) = channel();
    let mut options = cloud_options()?;
    options.confirm = Some(Arc::new(Late { asked }));
    // Two items are enough to know, and others are sent by then.
    options.probe = Some(Arc::new(Local::new(LocalOptions::new(1))?));
    let nap = |n: u64| {
        sleep(Duration::from_millis(150));
        n
    };
    let config = with_cloud(options)?;
    let mut map = config.fastmap(nap, 0..1000u64);
    println!("first {:?}", map.next());
    question.recv_timeout(LIMIT)?;
    drop(map);
    println!("left");
    Ok(())
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
        // The same, with the progress bars out of the way for as long as it takes.
        "bytes-suspended" => {
            let items = number(0)?;
            fastmap::suspend_progress(|| report(config.fastmap(bytes, 0..items), bytes));
        }
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
        // So many items of so many bytes.
        "large-items" => large_items(&config, number(0)?, number(1)?),
        // So many items of so many milliseconds.
        "sleep" => naps(&config, number(0)?, number(1)?),
        // The same, for who does not wait two minutes for a service that is gone.
        "sleep-impatiently" => {
            let options = CloudOptions { patience: Duration::from_secs(3), ..cloud_options()? };
            naps(&with_cloud(options)?, number(0)?, number(1)?);
        }
        "left" => left(&config, Path::new(rest.first().ok_or("a folder")?))?,
        "confirmed-late" => confirmed_late()?,
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
        "panics" => report(config.fastmap(panics, 0..1), |n| n),
        "surroundings" => {
            let answers = config.fastmap(surroundings, 0..60u64).collect::<Result<Vec<_>, _>>()?;
            for answer in answers.iter().collect::<std::collections::BTreeSet<_>>() {
                println!("<{answer}>");
            }
        }
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
        "lethal" => lethal(&config, number(0)?, number(1)?, number(2)?, number(3)? == 1),
        other => return Err(format!("no scenario {other:?}").into()),
    }
    Ok(())
}

fastmap_main!(run);
