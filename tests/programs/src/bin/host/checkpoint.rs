//! A map with a checkpoint, in variations. Each execution of an item is a line in a file.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::abort;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap::Options;
use fastmap_test_programs::report;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde::{Deserialize, Serialize};

use crate::parts::Parts;
use crate::{Outcome, config};

#[derive(Clone, Serialize, Deserialize)]
struct Context {
    /// Where executions are counted.
    log: String,
    milliseconds: u64,
}

fn executed(context: &Context, item: u64) {
    let log = OpenOptions::new().create(true).append(true).open(&context.log);
    // One write for a line: lines of several workers don't mix.
    log.and_then(|mut log| log.write_all(format!("{item}\n").as_bytes())).expect("the log can be written");
    sleep(Duration::from_millis(context.milliseconds));
}

#[allow(clippy::needless_pass_by_value, reason = "items are handed over by value")]
fn work(context: &Context, (n, _word): (u64, String)) -> u64 {
    executed(context, n);
    let fails = || fs::exists(format!("{}.fails", context.log)).is_ok_and(|fails| fails);
    // Each item's folder can be made once, and none where the folder for them is not there.
    let once = |what: &str| fs::create_dir(format!("{}.{what}/{n}", context.log)).is_ok();
    if n % 50 == 27 && once("dies") {
        abort();
    }
    let due = n % 10 == 3 && (fails() || once("once"));
    assert!(!due, "on demand");
    n * n
}

#[allow(clippy::needless_pass_by_value, reason = "items are handed over by value")]
fn other_work(context: &Context, (n, _word): (u64, String)) -> u64 {
    executed(context, n);
    n * n + 1
}

/// What every variation has: so many items of so many milliseconds each; `wishes` say how it differs.
pub(crate) fn checkpoint(path: &str, log: &str, items: u64, milliseconds: u64, wishes: &[String]) -> Outcome {
    let wish = |name: &str| wishes.iter().find_map(|wish| wish.strip_prefix(name));
    if wish("nobody").is_some() {
        // Root may write what nobody may.
        nix::unistd::setuid(nix::unistd::Uid::from_raw(65534))?;
    }
    let changed = wish("changed=").map_or(Ok(u64::MAX), str::parse)?;
    let input = (0..items).map(move |n| (n, if n == changed { "another".into() } else { "one".into() }));
    let context =
        Context { log: log.to_owned(), milliseconds: milliseconds + wish("slower").map_or(0, |_| 1) };
    let config = match wish("parts") {
        Some(_) => fastmap::init(Options::new().backend(Parts))?,
        None => config()?,
    };
    let mut map = match wish("other-function") {
        Some(_) => config.fastmap_with(context, other_work, input),
        None => config.fastmap_with(context, work, input),
    };
    map = map.checkpoint(path).retries(wish("retries=").map_or(Ok(0_u32), str::parse)?);
    if let Some(key) = wish("version=") {
        map = map.checkpoint_version(key);
    }
    match wish("unordered") {
        Some(_) => {
            let mut found: Vec<_> = map.unordered().collect::<Result<_, _>>()?;
            found.sort_unstable();
            report(found.into_iter().map(|(_, value)| Ok(value)), |n| n * n);
        }
        None => {
            let mut limit = wish("file-size=").map(str::parse::<u64>).transpose()?;
            // Behind the first answer: workers, which share memory in files, are there by then.
            let limited = map.inspect(|_| {
                if let Some(bytes) = limit.take() {
                    limit_files(bytes).expect("a limit can be set");
                }
            });
            report(limited, |n| n * n);
        }
    }
    Ok(())
}

/// From now on no file of this process grows beyond so many bytes.
fn limit_files(bytes: u64) -> nix::Result<()> {
    // SAFETY: the kernel's own handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)
}

/// What recording costs: maps of so many items of so many microseconds each, with a checkpoint and without in turn. Prints
/// milliseconds: median, least and most.
pub(crate) fn recorded(path: &str, items: u64, micros: u64, rounds: u64) -> Outcome {
    let config = config()?;
    let function = |(n, micros): (u64, u64)| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(micros) {
            std::hint::black_box(n);
        }
        n
    };
    let mut times: [Vec<f64>; 2] = Default::default();
    for round in 0..=rounds {
        for (with, times) in times.iter_mut().enumerate() {
            let begun = Instant::now();
            let mut map = config.fastmap(function, (0..items).map(move |n| (n, micros)));
            if with == 1 {
                map = map.checkpoint(format!("{path}.{round}"));
            }
            for (n, answer) in (0..).zip(map) {
                assert_eq!(answer?, n);
            }
            // The first has the workers started.
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        fs::remove_file(format!("{path}.{round}"))?;
    }
    for (name, mut times) in ["without", "with"].into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        println!("{name}: {:.1} ms ({:.1}-{:.1})", times[times.len() / 2], times[0], times[times.len() - 1]);
    }
    Ok(())
}
