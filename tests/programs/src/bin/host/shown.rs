//! Maps to be looked at: on a terminal, and by the report of their timings.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap::{ExecPolicy, FastmapConfig, Options, Verbosity};
use fastmap_test_programs::report;

use crate::{Outcome, config};

/// A logger that writes where the bars are known.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _closed = writeln!(fastmap::stderr(), "[{}] {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// Several maps in turn, an item of each; workers print, and the program prints and logs.
pub(crate) fn shown(maps: u64, items: u64, millis: u64) -> Outcome {
    log::set_boxed_logger(Box::new(Logger)).map(|()| log::set_max_level(log::LevelFilter::Info))?;
    let config = config()?;
    let work = |(n, millis): (u64, u64)| {
        sleep(Duration::from_millis(millis));
        if n.is_multiple_of(20) {
            eprintln!("the function at {n}");
        }
        assert!(n != 7, "no seven");
        n
    };
    let mut running: Vec<_> = (0..maps)
        .map(|map| config.fastmap(work, (0..items).map(move |n| (n, millis))).label(format!("map {map}")))
        .collect();
    for n in 0..items {
        for (number, map) in running.iter_mut().enumerate() {
            if map.next().is_none() {
                println!("missing {number} {n}");
            }
        }
        if n % 25 == 10 {
            log::info!("a record at {n}");
            fastmap::suspend_progress(|| {
                println!("the program at {n}");
                // Inside: as a program does that logs wherever it is.
                log::info!("a record inside at {n}");
            });
        }
    }
    drop(running);
    println!("finished");
    Ok(())
}

/// A map whose label is too long for any terminal.
pub(crate) fn long_labels(items: u64) -> Outcome {
    let wait = |n: u64| {
        sleep(Duration::from_millis(20));
        n
    };
    let label = "a label that is much too long for the terminal on which it is shown 目录";
    report(config()?.fastmap(wait, 0..items).label(label), |n| n);
    Ok(())
}

/// Maps that end while the program has the bars out of the way: one is left, one is read to its end, and one is another
/// thread's, which is waited for; a fourth goes on. The files `end` and `over` say when.
pub(crate) fn end_suspended(folder: &str) -> Outcome {
    let (end, over) = (Path::new(folder).join("end"), Path::new(folder).join("over"));
    let config = config()?;
    let work = |n: u64| {
        sleep(Duration::from_millis(10));
        n
    };
    let many = 0..1_000_000u64;
    let inside = AtomicBool::new(false);
    let mut left = config.fastmap(work, many.clone()).label("left");
    let mut read = config.fastmap(work, (0u64..).take_while(|_| !end.exists())).label("read");
    let mut other = config.fastmap(work, many.clone()).label("other");
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            let map = config.fastmap(work, many.clone()).label("elsewhere");
            map.take_while(|_| !inside.load(Ordering::Relaxed)).count()
        });
        while !end.exists() {
            let _answers = (left.next(), read.next(), other.next());
        }
        fastmap::suspend_progress(|| {
            println!("the program begins");
            inside.store(true, Ordering::Relaxed);
            drop(left);
            println!("the rest: {}", read.count());
            println!("another thread's: {}", elsewhere.join().is_ok());
            println!("the program ends");
        });
        while !over.exists() {
            let _answer = other.next();
        }
    });
    drop(other);
    println!("finished");
    Ok(())
}

/// A slow input, one item that takes long, and one that ends its worker the first time: `timings` is in the environment.
pub(crate) fn timed(items: u64, input_micros: u64) -> Outcome {
    let marker = std::env::temp_dir().join(format!("fastmap-timed-{}", std::process::id()));
    let marker =
        marker.into_os_string().into_string().map_err(|_| "the temporary folder has a strange name")?;
    let work = |context: &(u64, String), n: u64| {
        let (items, marker) = context;
        let pause = if n == items / 2 { 700 } else { 2 };
        sleep(Duration::from_millis(pause));
        if n == items / 3 && std::fs::OpenOptions::new().write(true).create_new(true).open(marker).is_ok() {
            std::process::abort();
        }
        n
    };
    let input = (0..items).inspect(|_| sleep(Duration::from_micros(input_micros)));
    report(
        config()?.fastmap_with((items, marker.clone()), work, input).label("slow <script>alert(1)</script>"),
        |n| n,
    );
    std::fs::remove_file(marker)?;
    Ok(())
}

/// Two maps with one path: the second is dropped early.
pub(crate) fn timed_twice(path: &str) -> Outcome {
    let config = config()?;
    let square = |n: u64| n * n;
    report(config.fastmap(square, 0..1000u64).timings(path), |n| n * n);
    let mut early = config.fastmap(square, 0..).timings(path);
    println!("first {:?}", early.next());
    drop(early);
    // What maps inside a map writes nothing, though the variable is there.
    let nested = |n: u64| fastmap::fastmap(|k: u64| k, 0..n).count();
    println!("nested {:?}", config.fastmap(nested, [3u64]).timings(path).next());
    println!("unwritable {:?}", config.fastmap(square, 0..9u64).timings("/nowhere/at/all.html").next());
    Ok(())
}

/// What recording costs: each workload without and with a report, in turn; the median of the ratios, and its range.
pub(crate) fn timed_cost(rounds: u64) -> Outcome {
    let folder = tempfile::tempdir()?;
    let options =
        || Options::new().local_processes(2).exec_policy(ExecPolicy::Local).verbosity(Verbosity::Quiet);
    let config = fastmap::init(options())?;
    let root = |n: u64| (n as f64).sqrt();
    let spin = |_: u64| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1) {}
    };
    let mut number = 0;
    let mut compare = |what: &str, rounds: u64, map: &dyn Fn(Option<PathBuf>) -> usize| {
        let mut ratios: Vec<f64> = (0..rounds)
            .map(|round| {
                let mut times = [0.0; 2];
                for turn in 0..2 {
                    let with = (turn + round) % 2;
                    number += 1;
                    let path = folder.path().join(format!("{number}.html"));
                    let begun = Instant::now();
                    std::hint::black_box(map((with == 1).then_some(path)));
                    times[with as usize] = begun.elapsed().as_secs_f64();
                }
                times[1] / times[0]
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let last = ratios.len() - 1;
        println!("{what}: {:.4} ({:.4} to {:.4})", ratios[last / 2], ratios[0], ratios[last]);
    };
    let roots = |items: u64, path: Option<PathBuf>| {
        let map = config.fastmap(root, 0..items);
        if let Some(path) = path { map.timings(path).count() } else { map.count() }
    };
    compare("W2, a million square roots", 10 * rounds, &|path| roots(1_000_000, path));
    compare("W2, a hundred million square roots", rounds, &|path| roots(100_000_000, path));
    let spins = |config: &FastmapConfig, items: u64, path: Option<PathBuf>| {
        let map = config.fastmap(spin, 0..items);
        if let Some(path) = path { map.timings(path).count() } else { map.count() }
    };
    for items in [100, 1000, 4000] {
        let fresh = |path| spins(&fastmap::init(options()).expect("these options can be used"), items, path);
        compare(
            &format!("W3, {items} items of 1 ms, workers started for it"),
            1 + rounds * 200 / items.max(200),
            &fresh,
        );
    }
    Ok(())
}
