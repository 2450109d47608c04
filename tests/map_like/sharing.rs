//! One configuration, several maps: at once, one after the other, and ones that are left half way.

use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::thread;

use fastmap::backends::{Local, LocalOptions};

use crate::common::{Scratch, config, files, options, values, wait_until, within_deadline};

fn square(n: u64) -> u64 {
    n * n
}

#[test]
fn two_maps_zipped_in_one_thread_both_go_on() {
    within_deadline(|| {
        for processes in [1, 2] {
            let config = config(processes);
            let squares = config.fastmap(square, 0..3000);
            let texts = config.fastmap(|n: u64| n.to_string(), 0..3000);
            for (n, (square, text)) in (0..).zip(squares.zip(texts)) {
                assert_eq!((square.unwrap(), text.unwrap()), (n * n, n.to_string()));
            }
        }
    });
}

#[test]
fn two_maps_zipped_with_a_budget_of_nothing_both_go_on() {
    within_deadline(|| {
        let config = fastmap::init(options().local_processes(1).read_ahead(1)).unwrap();
        let left = config.fastmap(|text: String| text + "l", (0..300).map(|n| "x".repeat(n)));
        let right = config.fastmap(|n: usize| "x".repeat(n) + "r", 0..300);
        for (n, (left, right)) in left.zip(right).enumerate() {
            assert_eq!((left.unwrap().len(), right.unwrap().len()), (n + 1, n + 1));
        }
    });
}

#[test]
fn a_map_of_a_map_goes_on() {
    within_deadline(|| {
        let config = config(2);
        let squares = config.fastmap(square, 0..2000).map(Result::unwrap);
        let twice = values(config.fastmap(square, squares));
        assert_eq!(twice, (0..2000).map(square).map(square).collect::<Vec<_>>());
    });
}

#[test]
fn two_threads_map_at_once_by_one_configuration() {
    within_deadline(|| {
        let config = config(2);
        let start = Arc::new(Barrier::new(4));
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let (config, start) = (config.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    for _ in 0..5 {
                        let results = values(config.fastmap(square, thread * 1000..thread * 1000 + 500));
                        assert!(results.into_iter().eq((thread * 1000..thread * 1000 + 500).map(square)));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_map_is_not_held_up_by_another_that_nobody_reads() {
    within_deadline(|| {
        let config = config(2);
        let mut waiting = config.fastmap(square, 0..);
        assert_eq!(waiting.next().unwrap().unwrap(), 0);
        assert_eq!(values(config.fastmap(square, 0..1000)).len(), 1000);
        assert_eq!(waiting.next().unwrap().unwrap(), 1);
    });
}

#[test]
fn many_maps_one_after_the_other_use_the_same_workers() {
    let local = Local::new(LocalOptions::new(2)).unwrap();
    let config = fastmap::init(options().backend(local.clone())).unwrap();
    assert!(local.workers().is_empty(), "nothing is started before the first item is wanted");
    for _ in 0..3 {
        assert_eq!(values(config.fastmap(square, 0..1000)).len(), 1000);
    }
    // Items that know which worker ran them: those of the maps before are still there.
    let before = local.workers();
    assert!((1..=2).contains(&before.len()), "{before:?}");
    for _ in 0..20 {
        let pids = values(config.fastmap(|_: u64| std::process::id(), 0..50));
        assert!(pids.iter().all(|pid| local.workers().contains(pid)));
    }
    assert!(before.iter().all(|pid| local.workers().contains(pid)), "{before:?}: {:?}", local.workers());
}

#[test]
fn a_map_left_half_way_leaves_the_configuration_fit() {
    let config = config(2);
    for left_at in [1, 2, 10, 100] {
        let mut map = config.fastmap(square, 0..100_000);
        assert_eq!(values(map.by_ref().take(left_at)).len(), left_at);
        drop(map);
        assert_eq!(values(config.fastmap(|n: u32| n + 1, 0..100)), (1..=100).collect::<Vec<_>>());
    }
    let mut batches = config.fastmap(square, 0..100_000).batches();
    assert!(batches.next().is_some());
    drop(batches);
    assert_eq!(values(config.fastmap(square, 0..3)), [0, 1, 4]);
}

/// Tells its worker; with a folder it says there that it has begun, and never ends.
fn stuck(item: Option<PathBuf>) -> u32 {
    let Some(folder) = item else { return std::process::id() };
    std::fs::write(folder.join("here"), "").unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn a_worker_stuck_in_an_item_of_a_dropped_map_is_given_back() {
    within_deadline(|| {
        let scratch = Scratch::new();
        let config = config(1);
        let mut map = config.fastmap(stuck, [None, Some(scratch.path())]);
        assert!(map.next().unwrap().is_ok());
        assert!(wait_until(|| files(&scratch.path()) == 1));
        drop(map);
        assert_eq!(values(config.fastmap(square, 0..3)), [0, 1, 4]);
    });
}

#[test]
fn a_map_outlives_its_configuration() {
    let mut map = config(2).fastmap(square, 0..5000);
    assert_eq!(map.next().unwrap().unwrap(), 0);
    assert_eq!(values(map), (1..5000).map(square).collect::<Vec<_>>());
}

#[test]
fn clones_share_the_workers_and_the_last_one_ends_them() {
    let first = config(1);
    let second = first.clone();
    let pid = |config: &fastmap::FastmapConfig| values(config.fastmap(|()| std::process::id(), [()]))[0];
    let worker = pid(&first);
    assert_eq!(pid(&second), worker);
    drop(first);
    assert_eq!(pid(&second), worker, "the worker lives as long as one clone does");
    drop(second);
    let gone = || !PathBuf::from(format!("/proc/{worker}")).exists();
    assert!(wait_until(gone), "worker {worker} lives on without a configuration");
}

#[test]
fn a_configuration_that_is_dropped_ends_a_worker_stuck_in_an_item() {
    within_deadline(|| {
        let scratch = Scratch::new();
        let config = config(1);
        let mut map = config.fastmap(stuck, [None, Some(scratch.path())]);
        let worker = map.next().unwrap().unwrap();
        assert!(wait_until(|| files(&scratch.path()) == 1));
        drop((map, config));
        assert!(wait_until(|| !PathBuf::from(format!("/proc/{worker}")).exists()));
    });
}
