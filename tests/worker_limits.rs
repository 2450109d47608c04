//! Workers that use up too much memory, or have run as many items as they may, are replaced: it costs the item that
//! wants too much, and nothing else.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::collections::HashMap;
use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{children, options, values, wait_until, within_deadline};
use fastmap::{ErrorKind, FastmapConfig};

const MB: usize = 1 << 20;

/// Takes memory and uses it.
fn take(megabytes: usize) -> Vec<u8> {
    black_box(vec![1u8; megabytes * MB])
}

fn limited(processes: usize, megabytes: u64) -> FastmapConfig {
    fastmap::init(options().local_processes(processes).worker_memory(megabytes << 20)).unwrap()
}

fn recycling(processes: usize, items: u64) -> FastmapConfig {
    fastmap::init(options().local_processes(processes).max_items_per_worker(items)).unwrap()
}

#[test]
fn an_item_that_wants_too_much_memory_is_named_and_costs_itself_alone() {
    within_deadline(|| {
        fn greedy(n: u64) -> u64 {
            if n == 25 {
                let mut taken = Vec::new();
                loop {
                    // Bounded, should nobody end it.
                    if taken.len() < 30 {
                        taken.push(take(10));
                    }
                    sleep(Duration::from_millis(1));
                }
            }
            n
        }
        for processes in [1, 2] {
            let answers: Vec<_> = limited(processes, 100).fastmap(greedy, 0..50u64).collect();
            assert_eq!(answers.len(), 50);
            for (index, answer) in answers.into_iter().enumerate() {
                match answer {
                    Ok(n) => assert_eq!(n, index as u64),
                    Err(error) => {
                        assert_eq!(
                            (error.kind(), error.index()),
                            (ErrorKind::OutOfMemory, Some(25)),
                            "{error}"
                        );
                        let text = error.to_string();
                        assert!(text.contains("out of memory") && text.contains("104857600 bytes"), "{text}");
                        assert!(index == 25 && error.attempts() > 1, "{error}");
                    }
                }
            }
        }
    });
}

#[test]
fn memory_that_each_item_leaks_costs_workers_and_no_items() {
    within_deadline(|| {
        fn leak(n: u64) -> (u64, u32) {
            std::mem::forget(take(1));
            sleep(Duration::from_millis(1));
            (n, std::process::id())
        }
        let answers = values(limited(2, 100).fastmap(leak, 0..800u64));
        assert!(answers.iter().map(|(n, _)| *n).eq(0..800));
        let mut by_worker: HashMap<u32, usize> = HashMap::new();
        for (_, pid) in &answers {
            *by_worker.entry(*pid).or_default() += 1;
        }
        assert!(by_worker.len() >= 4, "{by_worker:?}");
    });
}

#[test]
fn what_a_context_takes_counts_and_a_limit_that_is_too_small_ends_the_map_in_words() {
    within_deadline(|| {
        let context = vec![1u8; 12 * MB];
        let function = |context: &Vec<u8>, n: u64| {
            sleep(Duration::from_millis(n));
            context.len()
        };
        let answers = values(limited(1, 200).fastmap_with(context.clone(), function, 0..3u64));
        assert_eq!(answers, [12 * MB; 3]);
        let error = limited(1, 8).fastmap_with(context, function, [60_000u64]).next().unwrap().unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
    });
}

#[test]
fn a_worker_runs_no_more_items_than_it_may_and_none_is_lost() {
    within_deadline(|| {
        for (processes, most) in [(1, 1), (1, 7), (3, 2), (3, 50)] {
            let config = recycling(processes, most);
            let answers = values(config.fastmap(|n: u64| (n, std::process::id()), 0..200u64));
            assert!(answers.iter().map(|(n, _)| *n).eq(0..200));
            let mut by_worker: HashMap<u32, u64> = HashMap::new();
            for (_, pid) in &answers {
                *by_worker.entry(*pid).or_default() += 1;
            }
            assert!(by_worker.values().all(|items| *items <= most), "{most}: {by_worker:?}");
            // And as many as it may: a worker does not leave before.
            assert!(
                by_worker.len() as u64 <= 200u64.div_ceil(most) + processes as u64,
                "{most}: {by_worker:?}"
            );
            // Those that were replaced are gone, not waiting to be reaped.
            let full: Vec<u32> =
                by_worker.into_iter().filter(|(_, items)| *items == most).map(|(pid, _)| pid).collect();
            assert!(wait_until(|| full.iter().all(|pid| !children().contains(pid))));
        }
    });
}

#[test]
fn panics_and_crashes_are_answered_beside_recycling() {
    within_deadline(|| {
        fn fault(n: u64) -> u64 {
            match n % 20 {
                3 => panic!("as asked"),
                7 => std::process::abort(),
                _ => n,
            }
        }
        let answers: Vec<_> = recycling(2, 5).fastmap(fault, 0..100u64).collect();
        assert_eq!(answers.len(), 100);
        for (index, answer) in answers.into_iter().enumerate() {
            let kind = match index % 20 {
                3 => Some(ErrorKind::Panic),
                7 => Some(ErrorKind::Crash),
                _ => None,
            };
            assert_eq!(answer.as_ref().err().map(fastmap::Error::kind), kind, "{answer:?}");
        }
    });
}

#[test]
fn a_worker_whose_end_hangs_does_not_hold_its_place() {
    extern "C" fn hang() {
        sleep(Duration::from_secs(600));
    }
    within_deadline(|| {
        fn clings(n: u64) -> u64 {
            // SAFETY: `hang` is a function without arguments that may be called at any time.
            assert_eq!(unsafe { libc::atexit(hang) }, 0);
            n
        }
        let begun = Instant::now();
        assert_eq!(values(recycling(1, 2).fastmap(clings, 0..6u64)), [0, 1, 2, 3, 4, 5]);
        assert!(begun.elapsed() < Duration::from_secs(20));
    });
}
