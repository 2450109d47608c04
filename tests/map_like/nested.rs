//! A map inside the function of a map: the same results, from the same worker, and no further processes.

use fastmap::backends::{Local, LocalOptions};
use fastmap::{Error, ErrorKind};

use crate::common::{children, config, options, values, within_deadline};

/// What an outer item tells of itself and of the items of its own map.
type Told = (u32, Vec<(u32, u64)>, usize);

/// Maps by a configuration of its own.
fn outer(n: u64) -> Told {
    let inner = config(4);
    let results = values(inner.fastmap(|k: u64| (std::process::id(), k * k), 0..n));
    (std::process::id(), results, children().len())
}

fn assert_told(n: u64, (worker, results, children): &Told) {
    let expected: Vec<_> = (0..n).map(|k| (*worker, k * k)).collect();
    assert_eq!(*results, expected, "the inner map ran in the worker of the outer item");
    assert_eq!(*children, 0, "and started no process");
    assert_ne!(*worker, std::process::id());
}

#[test]
fn a_nested_map_runs_in_its_worker_and_starts_nothing() {
    within_deadline(|| {
        let local = Local::new(LocalOptions::new(2)).unwrap();
        let config = fastmap::init(options().backend(local.clone())).unwrap();
        for (n, told) in (0..).zip(values(config.fastmap(outer, 0..40))) {
            assert_told(n, &told);
            assert!(local.workers().contains(&told.0));
        }
        assert!(local.workers().len() <= 2);
    });
}

#[test]
fn a_nested_map_of_the_global_configuration() {
    fn global(n: u64) -> Told {
        let results = values(fastmap::fastmap(|k: u64| (std::process::id(), k * k), 0..n));
        (std::process::id(), results, children().len())
    }
    within_deadline(|| {
        for (n, told) in (0..).zip(values(config(2).fastmap(global, 0..20))) {
            assert_told(n, &told);
        }
    });
}

#[test]
fn three_levels() {
    fn middle(n: u64) -> u64 {
        values(config(2).fastmap(|k: u64| k + 1, 0..n)).into_iter().sum()
    }
    fn top(n: u64) -> u64 {
        values(config(2).fastmap(middle, 0..n)).into_iter().sum()
    }
    within_deadline(|| {
        assert_eq!(
            values(config(2).fastmap(top, 0..12)),
            (0..12).map(|n| (0..n).map(|m| (1..=m).sum::<u64>()).sum()).collect::<Vec<u64>>()
        );
    });
}

#[test]
fn panics_in_a_nested_map_are_answers_of_that_map() {
    fn inner(n: u64) -> u64 {
        assert!(n % 3 != 1, "inner {n}");
        n
    }
    /// An error as it can be sent: whether it is a panic, its index, its words.
    type Failure = (bool, Option<usize>, String);
    fn outer(n: u64) -> Vec<Result<u64, Failure>> {
        let tell = |error: Error| (error.kind() == ErrorKind::Panic, error.index(), error.to_string());
        config(2).fastmap(inner, 0..n).map(|result| result.map_err(tell)).collect()
    }
    within_deadline(|| {
        for (n, answers) in values(config(2).fastmap(outer, 0..20)).into_iter().enumerate() {
            assert_eq!(answers.len(), n);
            for (k, answer) in answers.into_iter().enumerate() {
                match answer {
                    Ok(value) => assert_eq!((value, k % 3 != 1), (k as u64, true)),
                    Err((panicked, index, text)) => {
                        assert!(panicked && k % 3 == 1);
                        assert_eq!(index, Some(k));
                        assert!(text.contains(&format!("inner {k}")), "{text}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_panic_of_the_outer_item_while_its_map_runs_costs_that_item() {
    fn outer(n: u64) -> u64 {
        let config = config(2);
        let mut map = config.fastmap(|k: u64| k, 0..100);
        assert_eq!(map.next().unwrap().unwrap(), 0);
        assert!(n.is_multiple_of(2), "outer {n}");
        values(map).len() as u64
    }
    within_deadline(|| {
        for (n, answer) in config(1).fastmap(outer, 0..20).enumerate() {
            match answer {
                Ok(count) => assert_eq!((count, n % 2), (99, 0)),
                Err(error) => {
                    assert_eq!((error.kind(), error.index(), n % 2), (ErrorKind::Panic, Some(n), 1));
                    assert!(error.to_string().contains(&format!("outer {n}")), "{error}");
                }
            }
        }
    });
}

#[test]
fn nested_maps_with_contexts_and_states() {
    fn outer(n: u64) -> (Vec<u64>, Vec<u64>) {
        let config = config(2);
        let with = values(config.fastmap_with(n, |n: &u64, k: u64| n * k, 0..5));
        let count = |seen: &mut u64, k: u64| {
            *seen += k;
            *seen
        };
        (with, values(config.fastmap_init(|| 0, count, 0..5)))
    }
    within_deadline(|| {
        for (n, (with, counted)) in (0..).zip(values(config(2).fastmap(outer, 0..20))) {
            assert_eq!(with, [0, n, 2 * n, 3 * n, 4 * n]);
            assert_eq!(counted, [0, 1, 3, 6, 10]);
        }
    });
}

#[test]
fn nested_maps_zipped_in_a_worker() {
    fn outer(n: u64) -> u64 {
        let config = config(2);
        let (left, right) = (config.fastmap(|k: u64| k, 0..n), config.fastmap(|k: u64| 2 * k, 0..n));
        left.zip(right).map(|(left, right)| left.unwrap() + right.unwrap()).sum()
    }
    within_deadline(|| {
        assert_eq!(
            values(config(2).fastmap(outer, 0..20)),
            (0..20u64).map(|n| (0..n).map(|k| 3 * k).sum()).collect::<Vec<u64>>()
        );
    });
}
