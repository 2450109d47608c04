//! State that goes in: a context for all calls, a state built in each worker, items that are only borrowed.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastmap::ErrorKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::common::{Scratch, config, meet, values};

#[test]
fn a_context_reaches_every_worker() {
    let scratch = Scratch::new();
    let results = values(config(3).fastmap_with(
        "context".to_owned(),
        |context: &String, item: (PathBuf, usize)| (context.clone(), meet(item)),
        vec![(scratch.path(), 3); 3],
    ));
    assert!(results.iter().all(|(context, _)| context == "context"));
    let workers: HashSet<_> = results.into_iter().map(|(_, worker)| worker.unwrap()).collect();
    assert_eq!(workers.len(), 3);
}

static ENCODED: AtomicUsize = AtomicUsize::new(0);

/// Counts how often it is encoded, in the process where that happens.
#[derive(Deserialize)]
struct Counting(u64);

impl Serialize for Counting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        serializer.serialize_newtype_struct("Counting", &self.0)
    }
}

#[test]
fn a_context_is_encoded_once_and_not_before_the_first_next() {
    let config = config(3);
    let add = |context: &Counting, n: u64| context.0 + n;
    drop(config.fastmap_with(Counting(1), add, 0..10));
    let mut map = config.fastmap_with(Counting(1000), add, 0..500);
    assert_eq!(ENCODED.load(Ordering::Relaxed), 0);
    assert_eq!(map.next().unwrap().unwrap(), 1000);
    // The first one of its type is looked at once more.
    assert_eq!(ENCODED.load(Ordering::Relaxed), 2);
    assert_eq!(values(map), (1001..1500).collect::<Vec<_>>());
    assert_eq!(ENCODED.load(Ordering::Relaxed), 2);
    assert_eq!(values(config.fastmap_with(Counting(2), add, 0..3)), [2, 3, 4]);
    assert_eq!(ENCODED.load(Ordering::Relaxed), 3);
}

#[test]
fn maps_of_one_function_keep_their_contexts_apart() {
    let config = config(2);
    let times = |factor: &u64, n: u64| factor * n;
    let tens = config.fastmap_with(10, times, 0..200);
    let twos = config.fastmap_with(2, times, 0..200);
    for (n, (ten, two)) in tens.zip(twos).enumerate() {
        assert_eq!((ten.unwrap(), two.unwrap()), (10 * n as u64, 2 * n as u64));
    }
}

#[test]
fn a_large_context() {
    let context = "c".repeat(10 << 20);
    let get = |text: &String, at: usize| text.as_bytes()[at];
    assert_eq!(values(config(2).fastmap_with(context, get, [0, (10 << 20) - 1])), [b'c', b'c']);
}

struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("this context stays here"))
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("nor does it come back"))
    }
}

#[test]
fn a_context_that_cannot_be_encoded_ends_the_map_with_one_error() {
    let config = config(1);
    let mut map = config.fastmap_with(Stubborn, |_: &Stubborn, n: u64| n, 0..10);
    let error = map.next().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, None));
    assert!(error.to_string().contains("this context stays here"), "{error}");
    assert!(error.to_string().contains("Stubborn"), "{error}");
    assert!((0..3).all(|_| map.next().is_none()));
    assert_eq!(values(config.fastmap(|n: u64| n, 0..3)), [0, 1, 2]);
}

/// Goes out, and is refused on the other side.
#[derive(Serialize)]
struct OneWay(u64);

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer)?;
        Err(serde::de::Error::custom("refused"))
    }
}

#[test]
fn a_context_that_cannot_be_decoded_ends_the_map_with_one_error() {
    let config = config(2);
    let mut map = config.fastmap_with(OneWay(1), |context: &OneWay, n: u64| context.0 + n, 0..10);
    let error = map.next().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, None), "{error}");
    assert!(error.to_string().contains("OneWay"), "{error}");
    assert!((0..3).all(|_| map.next().is_none()));
    assert_eq!(values(config.fastmap(|n: u64| n, 0..3)), [0, 1, 2]);
}

#[test]
fn a_state_is_kept_between_the_items_of_a_worker() {
    fn count(seen: &mut u64, item: u64) -> (u32, u64, u64) {
        *seen += 1;
        (std::process::id(), *seen, item)
    }
    let results = values(config(1).fastmap_init(|| 0, count, 0..500));
    assert_eq!(results.iter().map(|(_, seen, _)| *seen).collect::<Vec<_>>(), (1..=500).collect::<Vec<_>>());

    let mut last = HashMap::new();
    for (index, (worker, seen, item)) in
        values(config(3).fastmap_init(|| 0, count, 0..500)).into_iter().enumerate()
    {
        assert_eq!(item, index as u64);
        *last.entry(worker).or_insert(0) = last.get(&worker).copied().unwrap_or(0).max(seen);
    }
    assert_eq!(last.values().sum::<u64>(), 500, "each worker counts its own items: {last:?}");
}

#[test]
fn a_state_is_built_once_in_each_worker_of_a_map() {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let build = || BUILT.fetch_add(1, Ordering::Relaxed) + 1;
    let get = |built: &mut usize, _: u64| *built;
    let config = config(2);
    assert!(values(config.fastmap_init(build, get, 0..1000)).into_iter().all(|built| built == 1));
    assert_eq!(BUILT.load(Ordering::Relaxed), 0, "and not in the host");
}

#[test]
fn a_state_need_not_be_serialisable_nor_send() {
    type Shared = Rc<RefCell<Vec<u64>>>;
    let results = values(config(1).fastmap_init(
        Shared::default,
        |state: &mut Shared, n: u64| {
            let other = Rc::clone(state);
            other.borrow_mut().push(n);
            state.borrow().iter().sum::<u64>()
        },
        0..5,
    ));
    assert_eq!(results, [0, 1, 3, 6, 10]);
}

#[test]
fn a_state_is_built_anew_after_a_panic() {
    fn count(seen: &mut u64, item: u64) -> u64 {
        *seen += 1;
        assert!(item != 5, "half way");
        *seen
    }
    let results: Vec<_> = config(1).fastmap_init(|| 0, count, 0..10).collect();
    let error = results[5].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(5)));
    let seen: Vec<u64> = results.into_iter().filter_map(Result::ok).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 1, 2, 3, 4]);
}

#[test]
fn an_init_that_panics_ends_the_map_with_one_error() {
    let config = config(2);
    let mut map = config.fastmap_init(
        || -> u64 { panic!("no model here") },
        |state: &mut u64, n: u64| *state + n,
        0..100,
    );
    let error = map.next().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, None), "{error}");
    assert!(error.to_string().contains("no model here") && error.to_string().contains(file!()), "{error}");
    assert!((0..3).all(|_| map.next().is_none()));
    assert_eq!(map.size_hint(), (0, Some(0)));
    assert_eq!(values(config.fastmap(|n: u64| n, 0..3)), [0, 1, 2]);
}

/// Neither `Clone` nor `Copy`.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    numbers: Vec<u32>,
}

fn weigh(record: &Record) -> u64 {
    record.name.len() as u64 + record.numbers.iter().map(|n| u64::from(*n)).sum::<u64>()
}

#[test]
fn borrowed_items_stay_here_and_need_no_clone() {
    let records: Vec<Record> =
        (0..200).map(|n| Record { name: "r".repeat(n), numbers: (0..n as u32).collect() }).collect();
    let expected: Vec<u64> = records.iter().map(weigh).collect();
    let config = config(2);
    assert_eq!(values(config.fastmap_ref(weigh, &records)), expected);
    assert_eq!(values(config.fastmap_ref(weigh, records.iter().rev().step_by(2))).len(), 100);
    assert_eq!(values(config.fastmap_ref(|record: &Record| weigh(record), records.as_slice())), expected);
    assert_eq!(records.len(), 200);
}
