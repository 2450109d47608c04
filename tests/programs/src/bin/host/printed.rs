//! What functions print, log and panic with, and when the host has it.

use std::io::{Write, stderr, stdout};
use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use fastmap::{FastmapConfig, Options};

use crate::{Outcome, config};

unsafe extern "C" {
    fn printf(format: *const libc::c_char, ...) -> libc::c_int;
}

/// Prints so many lines, by Rust or by C.
fn print((how, n, lines): (String, u64, u64)) -> u64 {
    for line in 0..lines {
        match &*how {
            // SAFETY: the format is that of its two numbers.
            "c" => drop(unsafe { printf(c"printed %lu %lu\n".as_ptr(), n, line) }),
            "wide" => println!("printed {n} {line} {}", "x".repeat(80)),
            _ => println!("printed {n} {line}"),
        }
    }
    n
}

/// A map under the global configuration whose function prints, and an end of the program behind it.
pub(crate) fn prints(how: &str, items: u64, lines: u64, end: &str) -> Outcome {
    fastmap::global_init(Options::new())?;
    let input = (0..items).map(|n| (how.to_owned(), n, lines));
    let mut good = 0;
    for answer in fastmap::fastmap(print, input) {
        let n = answer?;
        good += 1;
        if end == "amid" {
            println!("answered {n}");
            if n == items / 2 {
                exit(0);
            }
        }
    }
    match end {
        "silent" => {}
        "late" => {
            sleep(Duration::from_millis(1500));
            eprintln!("late");
        }
        "half" => {
            let half = |_: u64| print!("half a line");
            fastmap::fastmap(half, 0..1).for_each(drop);
        }
        _ => println!("after {good}"),
    }
    match end {
        "exit" => exit(0),
        "panic" => panic!("the program's own"),
        _ => Ok(()),
    }
}

struct Printer;

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("record {}", record.args());
    }

    fn flush(&self) {}
}

/// The level is off when the workers start, is raised, and is off again.
pub(crate) fn levels() -> Outcome {
    log::set_boxed_logger(Box::new(Printer))?;
    let config = config()?;
    let speak = |n: u64| {
        log::info!("of {n}");
        log::log_enabled!(log::Level::Info)
    };
    for (level, first) in
        [(log::LevelFilter::Off, 0), (log::LevelFilter::Info, 100), (log::LevelFilter::Off, 200)]
    {
        log::set_max_level(level);
        let enabled =
            config.fastmap(speak, first..first + 10).filter(|answer| matches!(answer, Ok(true))).count();
        println!("enabled {enabled}");
    }
    Ok(())
}

#[inline(never)]
fn deep_in_the_function(n: u64) -> u64 {
    let none: Vec<u64> = Vec::new();
    std::hint::black_box(none)[n as usize]
}

#[inline(never)]
fn what_is_mapped(n: u64) -> u64 {
    deep_in_the_function(n) + 1
}

fn tell_errors(config: &FastmapConfig) {
    let own_hook = || std::panic::set_hook(Box::new(|_| eprintln!("the function's own hook")));
    let plain = config.fastmap(what_is_mapped, 0..2).filter_map(Result::err);
    let hooked = config.fastmap_init(own_hook, |(), n| what_is_mapped(n), 0..2).filter_map(Result::err);
    for (map, error) in plain.map(|error| ("plain", error)).chain(hooked.map(|error| ("hooked", error))) {
        println!("{map} {:?}", error.to_string());
    }
}

/// Items that panic, also where the function has a hook of its own.
pub(crate) fn panics() -> Outcome {
    tell_errors(&config()?);
    stdout().flush()?;
    stderr().flush()?;
    Ok(())
}
