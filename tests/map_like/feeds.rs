//! Inputs that wait: for a result of their own map, for another thread, for a pipe. Results that are there
//! are given.

use std::cell::Cell;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use fastmap::{ErrorKind, Feeder, feed};

use crate::common::{DEADLINE, Scratch, answers, config, meet, options, values, within_deadline};

fn square(n: u64) -> u64 {
    n * n
}

fn feed_one(feeder: &Feeder<u64>, item: u64) {
    assert!(feeder.push(item), "its map is not over");
}

#[test]
fn an_input_that_is_fed_by_the_results_ends_with_its_feeder() {
    within_deadline(|| {
        for inline in [false, true] {
            let config = fastmap::init(options().local_processes(2).inline(inline)).unwrap();
            let (feeder, feed) = feed();
            feeder.push(1u64);
            let mut feeder = Some(feeder);
            let mut results = Vec::new();
            for result in config.fastmap(|n: u64| n + 1, feed) {
                results.push(result.unwrap());
                match &feeder {
                    Some(feeder) if results.len() < 10 => feed_one(feeder, results[results.len() - 1]),
                    _ => feeder = None,
                }
            }
            assert_eq!(results, (2..=11).collect::<Vec<_>>());
        }
    });
}

/// A feed is never read in the calling thread, also where workers seem slower than that: it would be waited in, and a
/// work list would end too early.
#[test]
fn a_map_over_a_feed_stays_with_workers_and_loses_no_item_where_inline_is_allowed() {
    within_deadline(|| {
        let config = fastmap::init(options().local_processes(2).inline(true)).unwrap();
        let host = std::process::id();
        let children = |n: u64| {
            thread::sleep(Duration::from_millis(1));
            (std::process::id(), vec![2 * n, 2 * n + 1])
        };
        let (feeder, list) = feed();
        feeder.push(1u64);
        let (mut seen, mut here) = (0, 0);
        for result in config.fastmap(children, list.work_list()) {
            let (process, children) = result.unwrap();
            seen += 1;
            here += u32::from(process == host);
            children.into_iter().filter(|child| *child < 500).for_each(|child| feed_one(&feeder, child));
        }
        assert_eq!((seen, here), (499, 0));
    });
}

#[test]
fn a_work_list_ends_when_all_is_answered_in_whatever_way_results_are_taken() {
    within_deadline(|| {
        let config = config(2);
        let children = |n: u64| vec![2 * n, 2 * n + 1];
        let below = |child: &u64| *child < 1000;

        let (feeder, list) = feed();
        feeder.push(1u64);
        let mut seen = 0;
        for result in config.fastmap(children, list.work_list()) {
            seen += 1;
            result.unwrap().into_iter().filter(below).for_each(|child| feed_one(&feeder, child));
        }
        assert_eq!(seen, 999);

        let (feeder, list) = feed();
        feeder.push(1u64);
        let mut seen = 0;
        for result in config.fastmap(children, list.work_list()).unordered() {
            seen += 1;
            result.unwrap().1.into_iter().filter(below).for_each(|child| feed_one(&feeder, child));
        }
        assert_eq!(seen, 999);

        let (feeder, list) = feed();
        feeder.push(1u64);
        let mut seen = 0;
        for batch in config.fastmap(children, list.work_list()).batches() {
            for children in batch.unwrap() {
                seen += 1;
                children.into_iter().filter(below).for_each(|child| feed_one(&feeder, child));
            }
        }
        assert_eq!(seen, 999);
    });
}

#[test]
fn results_come_while_a_feed_waits_for_them_also_behind_adapters() {
    within_deadline(|| {
        let config = config(2);
        let (feeder, feed) = feed();
        let (seen, told) = channel();
        let thread = thread::spawn(move || {
            for n in 0..100u64 {
                feed_one(&feeder, n);
                // Three items at a time are out.
                if n >= 2 {
                    assert_eq!(told.recv_timeout(DEADLINE), Ok(n - 2));
                }
            }
        });
        let input = (100..200u64).chain(feed).enumerate().map(|(index, n)| (index as u64, n));
        let mut results = 0;
        for (index, result) in (0..).zip(config.fastmap(|(index, n): (u64, u64)| (index, n), input)) {
            assert_eq!(result.unwrap(), (index, (index + 100) % 200));
            results += 1;
            if index >= 100 {
                let _the_last_are_not_waited_for = seen.send(index - 100);
            }
        }
        assert_eq!(results, 200);
        thread.join().unwrap();
    });
}

#[test]
fn a_deadline_holds_while_a_feed_is_empty() {
    within_deadline(|| {
        let (feeder, feed) = feed();
        (0..3).for_each(|n| feed_one(&feeder, n));
        let map = config(2).fastmap(square, feed).deadline(Duration::from_secs(1));
        let answers: Vec<_> = map.collect();
        assert_eq!(answers.len(), 4, "{answers:?}");
        let error = answers[3].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.index()), (ErrorKind::Timeout, None));
        assert!(!feeder.push(3), "the map is over");
    });
}

#[test]
fn a_feed_that_is_full_at_once_is_an_input_as_others() {
    let (feeder, feed) = feed();
    (0..100_000).for_each(|n| feed_one(&feeder, n));
    drop(feeder);
    assert_eq!(values(config(2).fastmap(square, feed)), (0..100_000).map(square).collect::<Vec<_>>());
}

#[test]
fn results_come_before_a_pause_of_an_input_of_unknown_length() {
    let config = config(2);
    assert_eq!(values(config.fastmap(square, 0..100)).len(), 100);
    let in_time = (0..20).any(|_| {
        let (seen, mut late) = (Cell::new(0), false);
        let mut items = 0..5u64;
        let input = std::iter::from_fn(|| {
            // The fourth item would come after a pause.
            late |= items.start == 3 && seen.get() < 3;
            items.next()
        });
        let map = config.fastmap(square, input).inspect(|_| seen.set(seen.get() + 1));
        assert_eq!(answers(map), [0, 1, 4, 9, 16].map(Ok));
        !late
    });
    // A machine that does much else may need longer than the map is patient, but not always.
    assert!(in_time, "the fourth item was asked for before three results were given");
}

#[test]
fn caution_with_an_input_leaves_no_worker_idle_for_long() {
    let scratch = Scratch::new();
    let mut left = 4;
    // Of unknown length, and the first item takes its time. None is finished before all are there.
    let input = std::iter::from_fn(|| {
        thread::sleep(Duration::from_millis(if left == 4 { 100 } else { 0 }));
        left -= 1;
        (left >= 0).then(|| (scratch.path(), 4))
    });
    let met = values(config(4).fastmap(meet, input));
    assert!(met.len() == 4 && met.iter().all(Option::is_some), "{met:?}");
}

#[test]
fn what_is_finished_is_given_before_an_input_that_has_waited_is_pulled_again() {
    let config = config(2);
    assert_eq!(values(config.fastmap(square, 0..100)).len(), 100);
    let in_time = (0..20).any(|_| {
        let (seen, mut late) = (Cell::new(0), 0);
        let input = (0..20u64).inspect(|n| {
            // As a pipe whose lines come now and then, once there were some at once.
            if *n > 10 {
                late = late.max(n - seen.get());
            }
            thread::sleep(Duration::from_millis(if *n < 10 { 0 } else { 25 }));
        });
        let map = config.fastmap(square, input).inspect(|_| seen.set(seen.get() + 1));
        assert_eq!(answers(map), (0..20).map(|n| Ok(square(n))).collect::<Vec<_>>());
        late == 0
    });
    assert!(in_time, "results were there, or about to be, when the input was pulled again");
}
