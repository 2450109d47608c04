//! The input: pulled when needed and no sooner, from any iterator, and what its panics do.
//! Counters in the host see what was pulled.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::common::{Scratch, config, options, values, wait_until, within_deadline};

fn square(n: u64) -> u64 {
    n * n
}

/// Counts what is pulled from it.
fn counted<I: Iterator>(input: I) -> (Rc<Cell<usize>>, impl Iterator<Item = I::Item>) {
    let pulled = Rc::new(Cell::new(0));
    let counter = Rc::clone(&pulled);
    (pulled, input.inspect(move |_| counter.set(counter.get() + 1)))
}

#[test]
fn generators_that_are_not_send_are_read_in_the_calling_thread() {
    let thread = thread::current().id();
    let mut state = 0;
    let shared = Rc::new(Cell::new(0u64));
    let inside = Rc::clone(&shared);
    let generator = std::iter::from_fn(move || {
        assert_eq!(thread::current().id(), thread);
        state += 1;
        inside.set(inside.get() + state);
        (state <= 100).then_some(state)
    });
    assert_eq!(values(config(2).fastmap(square, generator)), (1..=100).map(square).collect::<Vec<_>>());
    assert_eq!(shared.get(), 5151);
}

#[test]
fn borrowed_iterators_need_not_live_for_ever() {
    let words = ["a", "bcd"].map(str::to_owned);
    let config = config(1);
    let lengths = values(config.fastmap(|text: String| text.len(), words.iter().map(|word| word.repeat(2))));
    assert_eq!(lengths, [2, 6]);
    let mut left = (0..10u64).collect::<Vec<_>>();
    assert_eq!(values(config.fastmap(square, left.drain(..3))), [0, 1, 4]);
    assert_eq!(left.len(), 7);
}

#[test]
fn collections_are_taken_as_they_are() {
    let config = config(1);
    assert_eq!(values(config.fastmap(square, vec![3, 1, 2])), [9, 1, 4]);
    assert_eq!(values(config.fastmap(square, [2, 3])), [4, 9]);
    assert_eq!(values(config.fastmap(square, Some(5))), [25]);
    let map = BTreeMap::from([(1u8, 'a'), (2, 'b')]);
    assert_eq!(values(config.fastmap(|(key, letter): (u8, char)| (letter, key), map)), [('a', 1), ('b', 2)]);
}

#[test]
fn nothing_is_pulled_before_the_first_next() {
    let config = config(1);
    let (pulled, input) = counted(0..10);
    let mut map = config.fastmap(square, input).label("late");
    assert_eq!(map.size_hint(), (10, Some(10)));
    assert_eq!(pulled.get(), 0);
    assert!(map.next().is_some());
    assert!(pulled.get() > 0);

    let (pulled, input) = counted(0..10);
    drop(config.fastmap(square, input).batches());
    assert_eq!(pulled.get(), 0);
}

#[test]
fn an_infinite_input_ends_where_the_consumer_does() {
    let config = config(2);
    assert_eq!(values(config.fastmap(square, 0..).take(1000)), (0..1000).map(square).collect::<Vec<_>>());
    let found = config.fastmap(square, 0..).map(Result::unwrap).find(|square| *square > 1_000_000);
    assert_eq!(found, Some(1001 * 1001));
}

#[test]
fn what_is_pulled_beyond_take_is_bounded() {
    fn two_milliseconds(n: u64) -> u64 {
        thread::sleep(Duration::from_millis(2));
        n
    }
    let (pulled, input) = counted(0..);
    assert_eq!(values(config(2).fastmap(two_milliseconds, input).take(100)).len(), 100);
    // 20 ms of work are 10 items; a few such batches for each worker, not thousands.
    assert!(pulled.get() < 1000, "{} items were pulled for 100 results", pulled.get());
}

#[test]
fn what_is_read_ahead_is_bounded_in_bytes() {
    let config = fastmap::init(options().local_processes(2).read_ahead(1_000_000)).unwrap();
    let (pulled, input) = counted((0..200).map(|_| "x".repeat(100_000)));
    for (delivered, result) in config.fastmap(|text: String| text, input).enumerate() {
        assert_eq!(result.unwrap().len(), 100_000);
        // The budget, the batch at its head, which is let in whatever its size, and the one in hand.
        let ahead = pulled.get() - delivered;
        assert!(ahead <= 14, "{ahead} items of 100 kB are held, where 1 MB is allowed");
    }
    assert_eq!(pulled.get(), 200);
}

#[test]
fn results_are_bounded_in_bytes_while_the_consumer_is_slow() {
    let config = fastmap::init(options().local_processes(2).read_ahead(1_000_000)).unwrap();
    let (pulled, input) = counted(0..100u64);
    let mut map = config.fastmap(|_: u64| "x".repeat(100_000), input);
    let mut most = 0;
    for delivered in 0..100 {
        assert_eq!(map.next().unwrap().unwrap().len(), 100_000);
        // A consumer that takes its time: all that may be read ahead is read ahead.
        thread::sleep(Duration::from_millis(1));
        most = most.max(pulled.get() - delivered);
    }
    assert!(map.next().is_none());
    // What was sent before the first result told its size, the budget, and a batch at its head.
    assert!(most <= 24, "{most} results of 100 kB, where 1 MB is allowed");
}

#[test]
fn results_of_a_slow_input_come_while_it_is_read() {
    within_deadline(|| {
        let scratch = Scratch::new();
        let folder = scratch.path();
        let config = config(8);
        assert_eq!(values(config.fastmap(square, 0..100)).len(), 100);
        // Each item waits for the one before to have been run.
        let wait = |index: u64| {
            thread::sleep(Duration::from_millis(20));
            let before = folder.join(index.wrapping_sub(1).to_string());
            assert!(index == 0 || wait_until(|| before.exists()), "item {} was not run", index - 1);
            folder.join(index.to_string())
        };
        let (pulled, input) = counted((0..40).map(wait));
        let map = config.fastmap(|path: std::path::PathBuf| std::fs::write(path, "").is_ok(), input);
        for (index, result) in map.enumerate() {
            assert!(result.unwrap());
            let late = pulled.get() - index;
            assert!(late <= 8, "result {index} came when {} items had been read", pulled.get());
        }
        assert_eq!(pulled.get(), 40);
    });
}

#[test]
fn the_size_hint_of_a_range_is_exact_at_each_step() {
    let config = config(2);
    let mut map = config.fastmap(square, 0..50);
    for left in (1..=50).rev() {
        assert_eq!(map.size_hint(), (left, Some(left)));
        assert!(map.next().is_some());
    }
    assert_eq!(map.size_hint(), (0, Some(0)));
    assert!(map.next().is_none());
    assert_eq!(map.size_hint(), (0, Some(0)));

    let mut unordered = config.fastmap(square, 0..50).unordered();
    for left in (1..=50).rev() {
        assert_eq!(unordered.size_hint(), (left, Some(left)));
        assert!(unordered.next().is_some());
    }
}

#[test]
fn the_size_hint_of_a_filter_holds_at_each_step() {
    let mut map = config(2).fastmap(square, (0..100).filter(|n| n % 3 == 0));
    assert_eq!(map.size_hint(), (0, Some(100)));
    for left in (1..=34).rev() {
        let (low, high) = map.size_hint();
        assert!(low <= left && left <= high.unwrap(), "{left} left, ({low}, {high:?})");
        assert!(map.next().is_some());
    }
    assert!(map.next().is_none());
    assert_eq!(config(1).fastmap(square, 0..).size_hint(), (usize::MAX, None));
}

#[test]
fn after_the_end_it_is_none_for_ever() {
    // An input that would begin again.
    let mut count = 0;
    let input = std::iter::from_fn(|| {
        count += 1;
        (count % 4 != 0).then_some(count)
    });
    let mut map = config(1).fastmap(square, input);
    assert_eq!(values(map.by_ref()), [1, 4, 9]);
    assert!((0..10).all(|_| map.next().is_none()));

    let mut batches = config(1).fastmap(square, 0..3).batches();
    assert_eq!(values(batches.by_ref()).concat(), [0, 1, 4]);
    assert!((0..10).all(|_| batches.next().is_none()));
}

/// Numbers up to an end; panics once before each of some of them.
struct Hiccups {
    next: u64,
    end: u64,
    at: Vec<u64>,
}

impl Iterator for Hiccups {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.at.first() == Some(&self.next) {
            self.at.remove(0);
            panic!("hiccup before {}", self.next);
        }
        self.next += 1;
        (self.next <= self.end).then_some(self.next - 1)
    }
}

#[test]
fn a_panic_of_the_input_reaches_the_caller_and_leaves_the_workers_fit() {
    let config = config(2);
    let payload = catch_unwind(AssertUnwindSafe(|| {
        let input = Hiccups { next: 0, end: 100, at: vec![30] };
        config.fastmap(square, input).for_each(drop);
    }))
    .unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "hiccup before 30");
    assert_eq!(values(config.fastmap(square, 0..100)), (0..100).map(square).collect::<Vec<_>>());
}

#[test]
fn a_map_that_goes_on_after_a_panic_of_its_input_loses_no_item() {
    let input = Hiccups { next: 0, end: 3000, at: vec![0, 1, 30, 31, 1000, 2999, 3000] };
    let mut map = config(2).fastmap(square, input);
    let (mut results, mut panics) = (Vec::new(), 0);
    loop {
        match catch_unwind(AssertUnwindSafe(|| map.next())) {
            Ok(Some(result)) => results.push(result.unwrap()),
            Ok(None) => break,
            Err(_) => panics += 1,
        }
    }
    assert_eq!(panics, 7);
    assert_eq!(results, (0..3000).map(square).collect::<Vec<_>>());
}
