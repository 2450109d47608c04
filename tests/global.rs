//! The global configuration: made once, used by the free function and by the method of every iterator.
//! One test, because all tests of a program share it.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::collections::HashSet;

use fastmap::prelude::*;
use fastmap::{ErrorKind, fastmap, global_init};

fn square(n: u64) -> u64 {
    n * n
}

#[test]
fn global_init_is_used_by_all_and_called_once() {
    // A call that fails leaves the way free for another.
    let refused = global_init(common::options().local_processes(0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Options);
    global_init(common::options().local_processes(2)).unwrap();
    let again = global_init(common::options()).unwrap_err();
    assert_eq!((again.kind(), again.index()), (ErrorKind::Options, None));
    assert!(again.to_string().contains("global_init"), "{again}");

    let expected: Vec<u64> = (0..1000).map(square).collect();
    assert_eq!(common::values(fastmap(square, 0..1000)), expected);
    assert_eq!(common::values((0..1000).fastmap(square)), expected);
    assert_eq!(common::values((0..1000).fastmap(square).batches()).concat(), expected);
    let even = vec![1, 2, 3, 4].into_iter().filter(|n| n % 2 == 0);
    assert_eq!(common::values(even.fastmap(|n: u64| n + 1)), [3, 5]);
    assert_eq!(
        common::answers(["1", "x"].map(String::from).into_iter().fastmap(|text| text.parse::<u8>().unwrap())),
        [Ok(1), Err(Some(1))]
    );

    // Its options hold: two workers, which all maps share, from every thread.
    let scratch = common::Scratch::new();
    let workers: HashSet<_> =
        common::values(fastmap(common::meet, vec![(scratch.path(), 2); 2])).into_iter().collect();
    assert_eq!(workers.len(), 2);
    let elsewhere = std::thread::spawn(|| common::values((0..1000u64).fastmap(|_| Some(std::process::id()))));
    assert!(elsewhere.join().unwrap().iter().all(|pid| workers.contains(pid)));

    // One configuration beside it has workers of its own.
    let own = common::values(common::config(1).fastmap(|()| Some(std::process::id()), [()]));
    assert!(!workers.contains(&own[0]));
}
