//! The option `inline`: the calling thread takes items where that is quicker, and nobody sees it in the answers.
//! Process ids tell where an item ran; how much a map does tells whether it is worth a process.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::cell::Cell;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::id;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastmap::{ErrorKind, FastmapConfig, Options, Verbosity};

fn inline(processes: usize) -> FastmapConfig {
    fastmap::init(common::options().local_processes(processes).inline(true)).unwrap()
}

/// Computes for so many microseconds, and gives the process that did.
fn burn(micros: u64) -> u32 {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(micros) {
        black_box(micros);
    }
    id()
}

/// Whether there are cores for workers to be faster at all.
fn has_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

/// A map of 1 ms items that has gone to workers before its last one.
fn pids_of_a_long_map(config: &FastmapConfig) -> Vec<u32> {
    common::values(config.fastmap(burn, vec![1000; 400]))
}

/// Child and parent: other tests start workers of this process. A machine that stands still for 10 ms in the middle of an item may
/// make any map look long: then it is tried again.
#[test]
fn a_map_that_is_not_worth_it_starts_no_process() {
    if common::case().is_none() {
        let child = || common::child("a_map_that_is_not_worth_it_starts_no_process", "child");
        assert!(common::wait_until(|| child().output().is_ok_and(|output| output.status.success())));
        return;
    }
    let config = inline(2);
    assert_eq!(common::values(config.fastmap(burn, vec![1; 1000])), [id(); 1000]);
    assert_eq!(common::values(config.fastmap(burn, vec![2000; 3])), [id(); 3]);
    assert!(common::values(config.fastmap(|n: u64| n + 1, 0..20_000)).into_iter().eq(1..=20_000));
    assert_eq!(common::children(), Vec::<u32>::new());
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads <= 2, "{threads} threads: the harness has the main one and this test's");
}

#[test]
fn a_small_map_runs_here_by_whatever_method() {
    let config = inline(2);
    assert_eq!(common::values(config.fastmap(burn, vec![1; 100])), [id(); 100]);
    assert_eq!(common::values(config.fastmap_ref(|micros: &u64| burn(*micros), &[1; 100])), [id(); 100]);
    let with = config.fastmap_with(3u64, |three: &u64, n: u64| (id(), n * three), 0..100);
    assert_eq!(common::values(with), (0..100).map(|n| (id(), n * 3)).collect::<Vec<_>>());
}

#[test]
fn without_the_option_nothing_runs_here() {
    let config = common::config(1);
    assert!(!common::values(config.fastmap(|_: u64| id(), 0..100)).contains(&id()));
}

#[test]
fn a_long_map_begins_here_goes_to_workers_and_keeps_its_order() {
    if !has_cores() {
        return;
    }
    let config = inline(2);
    let numbered = |n: u64| (n, burn(1000));
    // On a machine that is busy otherwise it may be right not to go: then the next map is asked.
    assert!(common::wait_until(|| {
        let answers = common::values(config.fastmap(numbered, 0..400));
        assert!(answers.iter().map(|(n, _)| *n).eq(0..400));
        assert_eq!(answers[0].1, id(), "the first item runs here");
        answers.iter().any(|(_, pid)| *pid != id())
    }));
}

#[test]
fn a_long_map_with_a_context_takes_it_along() {
    let config = inline(2);
    let context = vec![1u64, 10, 100];
    let map = config.fastmap_with(
        context,
        |factors: &Vec<u64>, n: usize| {
            burn(1000);
            factors[n % 3] * n as u64
        },
        0..200,
    );
    let expected: Vec<u64> = (0..200).map(|n| [1, 10, 100][n % 3] * n as u64).collect();
    assert_eq!(common::values(map), expected);
}

#[test]
fn a_hundred_thousand_items_of_a_microsecond_come_to_an_end() {
    common::within_deadline(|| {
        let config = inline(2);
        for _ in 0..3 {
            let map = config.fastmap(
                |n: u64| {
                    burn(1);
                    n
                },
                0..100_000,
            );
            assert!(common::values(map).into_iter().eq(0..100_000));
        }
    });
}

/// An item that runs as long as it says.
fn of_its_length((n, micros): (u64, u64)) -> u64 {
    burn(micros);
    n
}

#[test]
fn a_map_whose_items_get_cheap_and_dear_goes_to_and_fro_and_loses_nothing() {
    common::within_deadline(|| {
        let config = inline(2);
        let lengths = |n: u64| match n {
            0..200 | 400_200..400_400 => 1000,
            _ => 0,
        };
        let items = || (0..500_000).map(|n| (n, lengths(n)));
        assert!(common::values(config.fastmap(of_its_length, items())).into_iter().eq(0..500_000));
        let mut answers = common::values(config.fastmap(of_its_length, items()).unordered());
        answers.sort_unstable();
        assert!(answers.into_iter().eq((0..500_000).map(|n| (n as usize, n))));
        let batches = common::values(config.fastmap(of_its_length, items()).batches());
        assert!(batches.into_iter().flatten().eq(0..500_000));
    });
}

#[test]
fn a_panic_is_the_error_of_its_item_wherever_it_ran() {
    let config = inline(2);
    for micros in [0, 1000] {
        let map = config.fastmap(
            |(n, micros): (usize, u64)| {
                burn(micros);
                assert!(n % 50 != 7, "unlucky {n}");
                n
            },
            (0..400).map(|n| (n, micros)),
        );
        for (index, answer) in map.enumerate() {
            match answer {
                Ok(n) => assert!(n == index && n % 50 != 7),
                Err(error) => {
                    assert_eq!(index % 50, 7, "{error}");
                    assert_eq!(error.kind(), ErrorKind::Panic);
                    assert_eq!(error.index(), Some(index));
                    let text = error.to_string();
                    assert!(text.contains("tests/inline.rs") && text.contains("unlucky"), "{text}");
                }
            }
        }
    }
}

#[test]
fn every_item_may_panic() {
    let config = inline(1);
    let map = config.fastmap(|n: u64| -> u64 { panic!("number {n}") }, 0..3000);
    let answers = common::answers(map);
    assert!(answers.into_iter().eq((0..3000).map(|n| Err(Some(n)))));
}

#[test]
fn a_panic_of_the_input_goes_to_the_caller_and_the_map_goes_on() {
    let config = inline(2);
    for (count, at, micros) in [(100, 50, 0), (20_000, 15_000, 0), (300, 250, 1000)] {
        let once = Cell::new(false);
        let input = (0..count).map(|n| {
            assert!(n != at || once.replace(true), "the input's own");
            (n, micros)
        });
        let mut map = config.fastmap(of_its_length, input);
        let mut answers = Vec::new();
        let mut panics = 0;
        loop {
            match catch_unwind(AssertUnwindSafe(|| map.next())) {
                Ok(Some(answer)) => answers.push(answer.unwrap()),
                Ok(None) => break,
                Err(payload) => {
                    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the input's own"));
                    panics += 1;
                }
            }
        }
        assert_eq!(panics, 1);
        assert!(answers.into_iter().eq((0..count).filter(|n| *n != at)), "{count} items");
    }
}

/// Every hundredth ends its process, unless that is the one that started the test.
fn lethal_away((n, host): (u64, u32)) -> u64 {
    burn(1000);
    if n % 100 == 99 && id() != host {
        std::process::abort();
    }
    n
}

#[test]
fn a_death_in_a_worker_is_the_error_of_its_item() {
    if !has_cores() {
        return;
    }
    let config = inline(2);
    assert!(common::wait_until(|| {
        let answers = common::answers(config.fastmap(lethal_away, (0..400).map(|n| (n, id()))));
        assert_eq!(answers.len(), 400);
        let died = answers.iter().zip(0..).filter(|(answer, n)| **answer != Ok(*n)).map(|(_, n)| n);
        let died: Vec<u64> = died.inspect(|n| assert_eq!(n % 100, 99)).collect();
        died.iter().all(|n| answers[*n as usize] == Err(Some(*n as usize))) && !died.is_empty()
    }));
}

#[test]
fn the_function_sees_this_process() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let config = inline(2);
    let map = config.fastmap(|_: u64| CALLS.fetch_add(1, Ordering::Relaxed), 0..10);
    assert!(common::values(map).into_iter().eq(0..10));
    assert_eq!(CALLS.load(Ordering::Relaxed), 10);
}

#[test]
fn nothing_is_read_before_it_is_asked_for_and_little_ahead() {
    let config = inline(2);
    let pulled = Cell::new(0);
    let mut map =
        config.fastmap(burn, std::iter::repeat_with(|| pulled.set(pulled.get() + 1)).map(|()| 20u64));
    assert_eq!(pulled.get(), 0);
    for answers in 1..=50 {
        map.next().unwrap().unwrap();
        assert!(pulled.get() <= answers + 10, "{} items for {answers} answers", pulled.get());
    }
    drop(map);
    assert!(pulled.get() <= 60);
}

#[test]
fn size_hint_is_that_of_map() {
    let config = inline(2);
    let mut map = config.fastmap(|n: u64| n, 0..5000);
    for left in (0..=5000).rev() {
        assert_eq!(map.size_hint(), (left, Some(left)));
        assert_eq!(map.next().is_some(), left > 0);
    }
    assert!(map.next().is_none());
}

#[test]
fn zipped_maps_and_two_threads_get_their_own_answers() {
    let config = inline(2);
    let (left, right) = (|n: u64| (burn(300), n).1, |n: u64| (burn(300), n * 2).1);
    let zipped = config.fastmap(left, 0..500).zip(config.fastmap(right, 0..500));
    for (n, (left, right)) in (0..).zip(zipped) {
        assert_eq!((left.unwrap(), right.unwrap()), (n, 2 * n));
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert!(common::values(config.fastmap(left, 0..500)).into_iter().eq(0..500)));
        }
    });
    // One map as the input of another: its panics and results are its own.
    let chained = config.fastmap(right, config.fastmap(left, 0..200).map(Result::unwrap));
    assert!(common::values(chained).into_iter().eq((0..200).map(|n| 2 * n)));
}

#[test]
fn a_dropped_map_leaves_the_next_one_well() {
    let config = inline(2);
    for taken in [0, 1, 10, 100] {
        drop(common::values(config.fastmap(burn, vec![500; 400]).take(taken)));
    }
    assert_eq!(pids_of_a_long_map(&config).len(), 400);
}

#[test]
fn an_unknown_length_is_no_hindrance() {
    let config = inline(2);
    let mut left = 60_000;
    let items = std::iter::from_fn(|| (left > 0).then(|| (left -= 1, 1u64).1));
    assert_eq!(common::values(config.fastmap(burn, items)).len(), 60_000);
}

#[test]
fn maps_that_need_a_worker_have_one() {
    let config = inline(1);
    let init = config.fastmap_init(|| 0u64, |_: &mut u64, _: u64| id(), 0..10);
    assert!(!common::values(init).contains(&id()), "a state belongs to a worker");
    let limited = config.fastmap(|_: u64| id(), 0..10).item_timeout(Duration::from_secs(60));
    assert!(!common::values(limited).contains(&id()), "nobody could end an item here");
}

#[test]
fn a_map_inside_the_function_runs_where_the_function_does() {
    let config = inline(2);
    let nested = |n: u64| -> Vec<(u32, u64)> {
        let inner = fastmap::init(Options::new().verbosity(Verbosity::Quiet).local_processes(2)).unwrap();
        common::values(inner.fastmap(|m: u64| (id(), m), 0..n))
    };
    let answers = common::values(config.fastmap(nested, 0..5));
    for (n, answer) in answers.into_iter().enumerate() {
        assert!(answer.into_iter().eq((0..n as u64).map(|m| (id(), m))));
    }
}

/// Child and parent: what the closing line says, and that a panic is not printed beside its error.
#[test]
fn the_closing_line_says_where_it_ran() {
    if common::case().is_some() {
        let config = fastmap::init(Options::new().verbosity(Verbosity::Normal)).unwrap();
        let failed =
            config.fastmap(|n: u64| assert!(n != 3, "not to be printed"), 0..1000).filter(Result::is_err);
        assert_eq!(failed.count(), 1);
        assert_eq!(config.fastmap(|n: u64| n, 0..10_000).take(700).count(), 700);
        return;
    }
    let mut child = common::child("the_closing_line_says_where_it_ran", "child");
    child.env("FASTMAP_INLINE", "1").env("FASTMAP_EXEC_POLICY", "local");
    // To name the frames of the one panic takes longer than all items, which would be worth processes.
    child.env("RUST_BACKTRACE", "0");
    let told = common::stderr_of(child);
    assert!(told.contains("fastmap: 1000 items in "), "{told}");
    assert!(told.contains("in the calling thread, 1 failed): too little work for processes"), "{told}");
    assert!(told.contains("fastmap: 700 items in ") && told.contains("not read to the end"), "{told}");
    assert!(!told.contains("not to be printed"), "{told}");
}
