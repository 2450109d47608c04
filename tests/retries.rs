//! An item that fails is tried again as often as is asked for, and no more; its error says how often. All other items
//! are answered once, in order.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use common::{Scratch, config, values, within_deadline};
use fastmap::{Error, ErrorKind, OnError};

/// An item that runs for longer than any test takes, each time.
const HANGS: u64 = 99_002;

/// Notes a try of an item; how many it is.
fn try_number(folder: &Path, item: u64) -> u64 {
    let path = folder.join(item.to_string());
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    file.write_all(b".").unwrap();
    fs::metadata(path).unwrap().len()
}

fn tries(folder: &Path, item: u64) -> u64 {
    fs::metadata(folder.join(item.to_string())).unwrap().len()
}

/// Fails at item `n` in the way of `n % 10` in its first `n / 1000` tries.
#[allow(clippy::ptr_arg, reason = "the context is a PathBuf")]
fn now_and_then(folder: &PathBuf, n: u64) -> u64 {
    if try_number(folder, n) <= n / 1000 {
        match n % 10 {
            0 => panic!("not yet"),
            1 => std::process::abort(),
            2 => sleep(Duration::from_secs(600)),
            _ => {}
        }
    }
    n
}

/// To stand for the item: a panic, a crash or a timeout.
fn fails_twice(item: u64) -> u64 {
    2000 + item / 10 * 10 + item / 60 % 3
}

#[test]
fn items_that_fail_now_and_then_are_answered_well_and_in_order() {
    within_deadline(|| {
        for processes in [1, 3] {
            let scratch = Scratch::new();
            // Between many items that are well: large batches are taken apart.
            let items: Vec<u64> = (0..300).map(|n| if n % 60 == 50 { fails_twice(n) } else { n }).collect();
            let map = config(processes).fastmap_with(scratch.path(), now_and_then, items.clone()).retries(2);
            assert_eq!(values(map.item_timeout(Duration::from_secs(1))), items);
            for item in items {
                let expected = if item >= 2000 { 3 } else { 1 };
                // An item that is well may stand behind one that is not, and be tried anew with its batch.
                assert!(tries(&scratch.path(), item) >= expected, "{item}");
            }
        }
    });
}

fn error_of(item: u64, retries: u32) -> (Error, u64) {
    let scratch = Scratch::new();
    let map = config(2).fastmap_with(scratch.path(), now_and_then, [4, item, 5]);
    // A panic whose frames are asked for (`RUST_BACKTRACE`) takes some time.
    let limit = Duration::from_millis(if item == HANGS { 100 } else { 20_000 });
    let mut map = map.retries(retries).item_timeout(limit);
    assert_eq!(map.next().unwrap().unwrap(), 4);
    let error = map.next().unwrap().unwrap_err();
    assert_eq!(map.next().unwrap().unwrap(), 5);
    assert!(map.next().is_none());
    assert_eq!(error.index(), Some(1));
    (error, tries(&scratch.path(), item))
}

#[test]
fn an_item_that_always_fails_is_tried_so_often_and_says_so() {
    within_deadline(|| {
        for (item, kind, without) in
            [(99_000, ErrorKind::Panic, 1), (99_001, ErrorKind::Crash, 2), (HANGS, ErrorKind::Timeout, 1)]
        {
            for retries in [0, 1, 3] {
                let (error, tries) = error_of(item, retries);
                let expected = without + retries;
                assert_eq!((error.kind(), error.attempts()), (kind, expected), "{error}");
                assert_eq!(tries, u64::from(expected), "{error}");
                let counted = error.to_string().contains(&format!("(tried {expected} times)"));
                assert_eq!(counted, expected > 1, "{error}");
            }
        }
    });
}

#[test]
fn all_items_may_fail_once() {
    let scratch = Scratch::new();
    let items: Vec<u64> = (0..100).map(|n| 1000 + n * 10).collect();
    let map = config(2).fastmap_with(scratch.path(), now_and_then, items.clone()).retries(1);
    assert_eq!(values(map), items);
}

#[test]
fn unordered_results_come_once_each() {
    let scratch = Scratch::new();
    let items: Vec<u64> = (0..200).map(|n| if n % 7 == 0 { n / 10 * 10 + 1000 } else { n }).collect();
    let map = config(2).fastmap_with(scratch.path(), now_and_then, items.clone()).retries(1);
    let mut read: Vec<(usize, u64)> = values(map.unordered());
    read.sort_unstable();
    assert_eq!(read, items.into_iter().enumerate().collect::<Vec<_>>());
}

#[test]
fn a_map_stops_at_a_failure_only_when_its_retries_are_used_up() {
    let scratch = Scratch::new();
    let map = || config(2).fastmap_with(scratch.path(), now_and_then, [1, 2_000, 5]).on_error(OnError::Stop);
    assert_eq!(values(map().retries(2)), [1, 2_000, 5]);
    let error = config(2)
        .fastmap_with(scratch.path(), now_and_then, [1, 99_000, 5])
        .on_error(OnError::Stop)
        .retries(2)
        .find_map(Result::err)
        .unwrap();
    assert_eq!((error.index(), error.attempts()), (Some(1), 3));
}

#[test]
fn what_never_came_to_the_function_was_never_tried() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Sparse {
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<u64>,
    }
    let error = config(1)
        .fastmap(|item: Sparse| item.value, [Sparse { value: None }])
        .retries(5)
        .find_map(Result::err)
        .unwrap();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Serialize, 0));
}

#[test]
fn an_item_that_crashes_once_and_panics_then_was_tried_twice() {
    #[allow(clippy::ptr_arg, reason = "the context is a PathBuf")]
    fn crashes_then_panics(folder: &PathBuf, n: u64) -> u64 {
        if n == 3 {
            if try_number(folder, n) == 1 {
                std::process::abort();
            }
            panic!("now so");
        }
        n
    }
    within_deadline(|| {
        let scratch = Scratch::new();
        let map = config(1).fastmap_with(scratch.path(), crashes_then_panics, 0..6);
        let errors: Vec<Error> = map.filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!((errors[0].kind(), errors[0].attempts()), (ErrorKind::Panic, 2), "{errors:?}");
    });
}
