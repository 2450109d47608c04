//! A program whose items are acts: what functions and the libraries in them ask of the system. It maps each
//! act under the policy of its environment and prints what came of it, a line each: `NAME: RESULT`. Its
//! argument selects: `works`, `refused`, `told`, `look-for PATH`, `threads MANY`, or `tokio ITEMS MILLISECONDS`.
//!
//! `works`, `refused` and `told` hold the acts.

mod refused;
mod runtime;
mod told;
mod works;

use std::error::Error;

use fastmap::{Options, fastmap_main};

/// Something that a function does. What it says must be the same wherever it runs.
#[derive(Clone, Copy)]
pub(crate) struct Act {
    name: &'static str,
    act: fn() -> String,
}

pub(crate) const fn act(name: &'static str, act: fn() -> String) -> Act {
    Act { name, act }
}

/// A system call by its number. Addresses are those of values that live until it is over, and are what the
/// call takes.
pub(crate) fn call(number: libc::c_long, arguments: &[usize]) -> Result<i64, i32> {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    let [first, second, third] = [0, 1, 2].map(argument);
    let [fourth, fifth, sixth] = [3, 4, 5].map(argument);
    // SAFETY: as said above, which each act keeps to.
    match unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        answer => Ok(answer),
    }
}

/// The address of a value, for [`call`].
pub(crate) fn at<T>(value: &mut T) -> usize {
    std::ptr::from_mut(value).expose_provenance()
}

/// A call's outcome, without the number that it returned.
pub(crate) fn outcome(result: Result<i64, i32>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => failed(error),
    }
}

pub(crate) fn failed(error: i32) -> String {
    match error {
        libc::EPERM => "EPERM".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        other => format!("error {other}"),
    }
}

fn print(acts: &[Act], results: impl Iterator<Item = Result<String, fastmap::Error>>) {
    for (act, result) in acts.iter().zip(results) {
        println!(
            "{}: {}",
            act.name,
            result.unwrap_or_else(|error| format!("failed: {error}").replace('\n', " "))
        );
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let config = fastmap::init(Options::new())?;
    match arguments.as_slice() {
        ["works"] => {
            print(works::ACTS, config.fastmap(|n: usize| (works::ACTS[n].act)(), 0..works::ACTS.len()));
            Ok(())
        }
        ["refused"] => {
            print(refused::ACTS, config.fastmap(|n: usize| (refused::ACTS[n].act)(), 0..refused::ACTS.len()));
            Ok(())
        }
        ["tokio", items, milliseconds] => {
            let (items, milliseconds) = (items.parse::<u64>()?, milliseconds.parse::<u64>()?);
            let map = config.fastmap(runtime::compute, (0..items).map(|n| (n, milliseconds)));
            fastmap_test_programs::report(map, |n| n + 7);
            Ok(())
        }
        ["told"] => {
            let map = config.fastmap(|n: usize| (told::ITEMS[n].1)(), 0..told::ITEMS.len());
            for ((name, _), result) in told::ITEMS.iter().zip(map) {
                let result = match result {
                    Ok(Ok(())) => "done".to_owned(),
                    Ok(Err(error)) => format!("Err {error}"),
                    Err(error) => format!("failed: {error}").replace('\n', " "),
                };
                println!("{name}: {result}");
            }
            Ok(())
        }
        ["look-for", path] => {
            for found in config.fastmap(told::look_for, [(*path).to_owned()]) {
                println!("found: {}", found?);
            }
            Ok(())
        }
        ["threads", many] => {
            for started in config.fastmap(told::start_threads, [many.parse::<usize>()?]) {
                println!(
                    "{}",
                    started.map_or_else(|error| error.to_string(), |all| format!("{all} threads"))
                );
            }
            Ok(())
        }
        other => Err(format!("works, refused, told, look-for, threads or tokio, not {other:?}").into()),
    }
}
fastmap_main!(run);
