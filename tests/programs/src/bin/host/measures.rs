//! Many maps, large maps, and what they cost this process: printed, for the tests to compare.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::read_dir;
use std::hint::black_box;
use std::process::id;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastmap::{FastmapConfig, OnError};
use fastmap_test_programs::{LIMIT, children, peak_kb, report, state, status_number, workers};

use crate::{Outcome, config};

const MIB: usize = 1 << 20;

/// Descriptors, threads and zombies of this process.
fn held() -> std::io::Result<[u64; 3]> {
    let files = read_dir("/proc/self/fd")?.count() as u64;
    let zombies = children(id().cast_signed()).into_iter().filter(|pid| state(*pid) == Some('Z')).count();
    Ok([files, status_number("self", "Threads"), zombies as u64])
}

/// Prints what this process holds, and the memory of its largest worker; returns the former. What is on its
/// way out may stay for a moment: `before`, which it should not exceed, is waited for.
fn measure(before: Option<[u64; 3]>) -> Result<[u64; 3], Box<dyn Error>> {
    let me = id().cast_signed();
    let deadline = Instant::now() + LIMIT;
    let now = loop {
        let now = held()?;
        let settled =
            now.iter().zip(before.unwrap_or([u64::MAX, u64::MAX, 0])).all(|(now, most)| *now <= most);
        if settled || Instant::now() > deadline {
            break now;
        }
        sleep(Duration::from_millis(5));
    };
    let [files, threads, zombies] = now;
    let of_worker = |pid: i32| status_number(&pid.to_string(), "VmRSS");
    println!(
        "measure files {files} threads {threads} zombies {zombies} memory {} worker {} workers {:?}",
        status_number("self", "VmRSS"),
        workers(me).into_iter().map(of_worker).max().unwrap_or(0),
        workers(me),
    );
    Ok(now)
}

fn small_map(config: &FastmapConfig, items: u64) -> Outcome {
    let mut sum = 0;
    for square in config.fastmap(|n: u64| n * n, 0..items) {
        sum += square?;
    }
    if sum != (0..items).map(|n| n * n).sum::<u64>() {
        println!("wrong sum {sum}");
    }
    Ok(())
}

/// Maps one after another on one configuration; measured after a tenth, and at the end.
pub(crate) fn maps(count: u64) -> Outcome {
    let config = config()?;
    let mut before = None;
    for done in 1..=count {
        small_map(&config, 100)?;
        if done == count / 10 || done == count {
            before = Some(measure(before)?);
        }
    }
    Ok(())
}

/// Configurations one after another.
pub(crate) fn configs(count: u64) -> Outcome {
    let mut before = None;
    for done in 1..=count {
        small_map(&config()?, 100)?;
        if done == count / 5 || done == count {
            before = Some(measure(before)?);
        }
    }
    Ok(())
}

/// Maps that are dropped midway. Says how many workers there were in all.
pub(crate) fn dropped(count: u64) -> Outcome {
    let config = config()?;
    let (mut before, mut seen) = (None, BTreeSet::new());
    for done in 1..=count {
        let map = config.fastmap(|n: u64| vec![n; 100], 0..);
        for (n, answer) in map.take(done as usize).enumerate() {
            if answer? != vec![n as u64; 100] {
                println!("wrong {n}");
            }
        }
        seen.extend(workers(id().cast_signed()));
        if done == count / 5 || done == count {
            // One that had to be replaced is there again.
            let deadline = Instant::now() + LIMIT;
            while workers(id().cast_signed()).len() < 2 && Instant::now() < deadline {
                small_map(&config, 1000)?;
            }
            before = Some(measure(before)?);
        }
    }
    println!("workers in all {}", seen.len());
    Ok(())
}

/// Maps with a context of 1 MB each.
pub(crate) fn contexts(count: u64) -> Outcome {
    let config = config()?;
    let mut before = None;
    for done in 1..=count {
        let context = "x".repeat(MIB);
        let map = config.fastmap_with(context, |context: &String, n: u64| context.len() as u64 + n, 0..20);
        for (n, length) in (0..).zip(map) {
            if length? != MIB as u64 + n {
                println!("wrong {n}");
            }
        }
        if done == count / 5 || done == count {
            before = Some(measure(before)?);
        }
    }
    Ok(())
}

/// A map is dropped while its only worker is in an endless item.
pub(crate) fn stuck() -> Outcome {
    let config = config()?;
    let mut map = config.fastmap(
        |n: u64| {
            if n == 1 {
                loop {
                    black_box(());
                }
            }
            n
        },
        0..10,
    );
    println!("first {:?}", map.next());
    drop(map);
    small_map(&config, 1000)?;
    println!("second map done");
    Ok(())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How long after an item has failed its map is over, which stops at the first failure: each worker but one is in an item
/// of 10 s then, and thousands wait. Prints milliseconds for each of so many rounds.
pub(crate) fn stopped(rounds: u64) -> Outcome {
    let config = config()?;
    for _ in 0..rounds {
        let function = |n: u64| -> u64 {
            // Until then the others have begun.
            sleep(Duration::from_millis(if n == 0 { 1000 } else { 10_000 }));
            panic!("failed at {}", since_epoch().as_micros());
        };
        let mut map = config.fastmap(function, 0..10_000u64).on_error(OnError::Stop);
        let error = map.next().ok_or("an answer")?.err().ok_or("a failure")?;
        let over = map.next().is_none();
        let now = since_epoch().as_micros();
        let told = error.to_string();
        let (_, failed) = told.split_once("failed at ").ok_or("the function's words")?;
        let digits: String = failed.chars().take_while(char::is_ascii_digit).collect();
        let after = now.saturating_sub(digits.parse()?) as f64 / 1e3;
        println!("over {over} item {:?} after {after:.1} ms", error.index());
    }
    Ok(())
}

fn large(n: u64) -> String {
    let mut text = n.to_string();
    text.extend(std::iter::repeat_n('x', MIB));
    text
}

/// Small inputs, large results, and the consumer waits for the first.
pub(crate) fn results(items: u64) -> Outcome {
    let function = |n: u64| {
        if n == 0 {
            sleep(Duration::from_millis(1500));
        }
        large(n)
    };
    report(config()?.fastmap(function, 0..items).map(|text| text.map(|text| text.len())), |n| large(n).len());
    println!("peak {}", peak_kb());
    Ok(())
}

/// Items of 1 MiB both ways.
pub(crate) fn stream(items: u64) -> Outcome {
    let text = "x".repeat(MIB);
    let map = config()?.fastmap(|text: String| text, std::iter::repeat_n(text, items as usize));
    report(map.map(|text| text.map(|text| text.len())), |_| MIB);
    println!("peak {}", peak_kb());
    Ok(())
}

/// One item of so many bytes.
pub(crate) fn one(bytes: u64) -> Outcome {
    let items = [String::from("small"), "x".repeat(bytes as usize), String::from("small")];
    let lengths = items.each_ref().map(String::len);
    let map = config()?.fastmap(|text: String| text, items);
    report(map.map(|text| text.map(|text| text.len())), |n| lengths[n as usize]);
    Ok(())
}

/// Two maps of one configuration, read in step.
pub(crate) fn zipped() -> Outcome {
    let config = config()?;
    let left = config.fastmap(|n: u64| vec![n; 1000], 0..500);
    let right = config.fastmap(|n: u64| vec![n + 1; 1000], 0..500);
    report(left.zip(right).map(|(left, right)| Ok((left?, right?))), |n| (vec![n; 1000], vec![n + 1; 1000]));
    Ok(())
}
