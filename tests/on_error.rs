//! A map that stops at its first failure does so at once, and what it had under way ends with it; one that keeps
//! going does not stop; a deadline ends a map as a whole.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Scratch, answers, children, config, files, options, values, wait_until, within_deadline};
use fastmap::{ErrorKind, OnError};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

fn even(n: u64) -> u64 {
    assert!(n.is_multiple_of(2), "{n} is odd");
    n / 2
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// One item fails as soon as so many others run, which take long.
fn fails_beside(folder: &Path, index: u64, failing: u64, others: usize) -> u64 {
    if index != failing {
        fs::write(folder.join(std::process::id().to_string()), "").unwrap();
        sleep(LONG);
    }
    assert!(wait_until(|| files(folder) >= others));
    panic!("{}", now().as_nanos())
}

/// The processes that run long items.
fn busy(folder: &Path) -> Vec<u32> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

fn after(error: &fastmap::Error) -> Duration {
    let text = error.to_string();
    // Behind the first line may be frames (`RUST_BACKTRACE`).
    let first = text.lines().next().unwrap();
    let failed_at: u64 = first.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    now().checked_sub(Duration::from_nanos(failed_at)).unwrap()
}

fn failing_item(failing: u64) {
    let scratch = Scratch::new();
    let items = (0..10_000u64).map(move |index| (index, failing));
    let function = |folder: &PathBuf, (index, failing): (u64, u64)| fails_beside(folder, index, failing, 3);
    let mut map = config(4).fastmap_with(scratch.path(), function, items).on_error(OnError::Stop);
    let error = map.next().unwrap().unwrap_err();
    let late = after(&error);
    println!("item {failing}: the map ended {late:?} after the failure");
    assert!(late < Duration::from_secs(1), "{late:?}");
    assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(failing as usize)));
    assert!(map.next().is_none());
    assert!(map.next().is_none());
    assert_eq!(map.size_hint(), (0, Some(0)));
    let busy = busy(&scratch.path());
    // The failing worker may have begun another one.
    assert!(busy.len() >= 3, "{busy:?}");
    // `map` is still there: nobody else wants their places, and they end all the same.
    assert!(wait_until(|| busy.iter().all(|pid| !children().contains(pid))), "they run on");
}

#[test]
fn a_failing_head_ends_the_map_while_long_items_run() {
    within_deadline(|| failing_item(0));
}

#[test]
fn a_failing_item_ends_the_map_without_waiting_for_earlier_ones_that_run() {
    within_deadline(|| failing_item(2));
}

#[test]
fn a_failure_is_told_at_once_although_its_batch_has_long_items_behind_it() {
    within_deadline(|| {
        // Short items first, so that batches are large; then in one of them a failure before items that take long.
        fn work(n: u64) -> u64 {
            assert!(n != 50_000, "{}", now().as_nanos());
            if n > 50_000 {
                sleep(LONG);
            }
            n
        }
        let mut map = config(1).fastmap(work, 0..100_000).on_error(OnError::Stop);
        let (mut good, mut last) = (0, None);
        for answer in map.by_ref() {
            match answer {
                Ok(n) => {
                    assert_eq!(n, good);
                    good += 1;
                }
                Err(error) => last = Some((after(&error), error)),
            }
        }
        let (late, error) = last.unwrap();
        assert_eq!(error.index(), Some(50_000), "{error}");
        assert!(late < Duration::from_secs(1), "{late:?}");
        // One worker: nothing runs out of order, so that nothing is missing before the failure.
        assert_eq!(good, 50_000);
    });
}

#[test]
fn results_that_are_here_come_first_and_in_order() {
    for processes in [1, 4] {
        let mut good = 0;
        let mut errors = Vec::new();
        for answer in
            config(processes).fastmap(even, (0..1000).map(|n| n * 2).chain([1])).on_error(OnError::Stop)
        {
            match answer {
                Ok(half) => {
                    assert!(errors.is_empty());
                    assert_eq!(half, good);
                    good += 1;
                }
                Err(error) => errors.push(error.index()),
            }
        }
        assert_eq!(errors, [Some(1000)], "{processes} processes");
    }
}

#[test]
fn all_ways_of_reading_end_with_the_one_error() {
    let config = config(2);
    let map = || config.fastmap(even, [0, 2, 4, 7, 8, 9, 10]).on_error(OnError::Stop);
    let batches: Vec<_> = map().batches().collect();
    assert_eq!(batches.iter().filter(|batch| batch.is_err()).count(), 1);
    assert!(batches.last().unwrap().is_err());
    let unordered: Vec<_> = map().unordered().collect();
    assert_eq!(unordered.iter().filter(|answer| answer.is_err()).count(), 1);
    assert!(unordered.last().unwrap().is_err());
    // The workers serve the next map.
    assert_eq!(values(config.fastmap(even, [0, 2])), [0, 1]);
}

#[test]
fn crashes_and_timeouts_stop_a_map_too() {
    fn fault(n: u64) -> u64 {
        match n {
            5 => std::process::abort(),
            6 => sleep(LONG),
            _ => {}
        }
        n
    }
    let config = config(2);
    let limit = Duration::from_millis(200);
    for (items, kind) in [([1, 5, 2], ErrorKind::Crash), ([1, 6, 2], ErrorKind::Timeout)] {
        let map = config.fastmap(fault, items).item_timeout(limit).on_error(OnError::Stop);
        let errors: Vec<_> = map.filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!((errors[0].kind(), errors[0].index()), (kind, Some(1)), "{errors:?}");
    }
}

#[test]
fn an_item_that_cannot_be_written_or_read_back_stops_a_map_too() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Sparse {
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<u64>,
    }
    let items = [Some(1), None, Some(3)].map(|value| Sparse { value });
    let map = config(1).fastmap(|item: Sparse| item.value, items).on_error(OnError::Stop);
    let read = answers(map);
    assert_eq!(read.last(), Some(&Err(Some(1))));
    assert_eq!(read.iter().filter(|answer| answer.is_err()).count(), 1);

    /// Reads what no number is.
    #[derive(Debug, PartialEq, serde::Serialize)]
    struct Picky(u64);
    impl<'de> serde::Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            match u64::deserialize(from)? {
                2 => Err(serde::de::Error::custom("not 2")),
                n => Ok(Picky(n)),
            }
        }
    }
    let read = answers(config(1).fastmap(Picky, 0..5u64).on_error(OnError::Stop));
    assert_eq!(read, [Ok(Picky(0)), Ok(Picky(1)), Err(Some(2))]);
    let read = answers(config(1).fastmap(Picky, 0..5u64).on_error(OnError::Stop).unordered());
    assert_eq!(read.len(), 3);
}

#[test]
fn by_default_a_map_keeps_going() {
    let map = config(2).fastmap(even, 0..10).on_error(OnError::KeepGoing);
    assert_eq!(map.flatten().count(), 5);
}

#[test]
fn a_deadline_ends_a_map_and_what_it_runs() {
    within_deadline(|| {
        fn long_from_2(folder: &Path, n: u64) -> u64 {
            if n >= 2 {
                fs::write(folder.join(std::process::id().to_string()), "").unwrap();
                sleep(LONG);
            }
            n
        }
        let scratch = Scratch::new();
        let limit = Duration::from_millis(1500);
        let begun = Instant::now();
        let mut map = config(2)
            .fastmap_with(scratch.path(), |folder: &PathBuf, n| long_from_2(folder, n), 0..)
            .deadline(limit);
        assert_eq!(map.next().unwrap().unwrap(), 0);
        assert_eq!(map.next().unwrap().unwrap(), 1);
        let error = map.next().unwrap().unwrap_err();
        let took = begun.elapsed();
        assert!(took >= limit && took < LONG, "{took:?}");
        assert_eq!((error.kind(), error.index()), (ErrorKind::Timeout, None));
        assert!(error.to_string().contains("1.5s"), "{error}");
        assert!(map.next().is_none());
        let busy = busy(&scratch.path());
        assert!(!busy.is_empty());
        assert!(wait_until(|| busy.iter().all(|pid| !children().contains(pid))), "they run on");
    });
}

#[test]
fn a_map_whose_items_are_all_answered_in_time_ends_well_after_its_deadline() {
    let limit = Duration::from_secs(2);
    let begun = Instant::now();
    let mut map = config(2).fastmap(|n: u64| n, 0..1000u64).deadline(limit);
    assert_eq!(map.next().unwrap().unwrap(), 0);
    let rest: Vec<u64> = map
        .by_ref()
        .map(|answer| {
            let answer = answer.unwrap();
            if answer == 999 {
                assert!(wait_until(|| begun.elapsed() > limit));
            }
            answer
        })
        .collect();
    assert_eq!(rest.len(), 999);
}

#[test]
fn a_map_that_is_in_time_has_no_error() {
    let config = fastmap::init(options().local_processes(2)).unwrap();
    assert_eq!(values(config.fastmap(even, [0, 2]).deadline(Duration::from_secs(60))), [0, 1]);
    assert_eq!(values(config.fastmap(even, [0, 2]).deadline(Duration::MAX)), [0, 1]);
}
