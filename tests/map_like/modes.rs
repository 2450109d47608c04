//! Elements, batches and unordered: the same answers, in order, in order by the batch, and as they come.
//! And how many processes give them.

use std::collections::HashSet;

use crate::common::{Scratch, answers, config, files, meet, values, wait_until};

fn square(n: u64) -> u64 {
    n * n
}

/// Panics at multiples of 7.
fn unlucky(n: u64) -> u64 {
    assert!(!n.is_multiple_of(7), "{n} is a multiple of 7");
    n * n
}

fn unlucky_answers(items: u64) -> Vec<Result<u64, Option<usize>>> {
    (0..items).map(|n| if n % 7 == 0 { Err(Some(n as usize)) } else { Ok(n * n) }).collect()
}

#[test]
fn results_are_those_of_map() {
    let results = values(config(2).fastmap(square, 0..100));
    assert_eq!(results, (0..100).map(square).collect::<Vec<_>>());
}

#[test]
fn an_empty_input_gives_nothing() {
    let config = config(2);
    assert!(config.fastmap(square, std::iter::empty()).next().is_none());
    assert!(config.fastmap(square, Vec::new()).batches().next().is_none());
    assert!(config.fastmap(square, []).unordered().next().is_none());
    assert_eq!(values(config.fastmap(square, 0..3)), [0, 1, 4]);
}

#[test]
fn ten_thousand_results_come_in_order() {
    // The first items take longest, so that later ones are finished before them.
    fn uneven(n: u64) -> u64 {
        let rounds = if n < 20 { 200_000 } else { n % 13 };
        (0..rounds).fold(n, |sum, round| std::hint::black_box(sum ^ round ^ round))
    }
    let results = values(config(3).fastmap(uneven, 0..10_000));
    assert_eq!(results, (0..10_000).collect::<Vec<_>>());
}

#[test]
fn batches_hold_the_same_results_in_the_same_order() {
    let batches = values(config(2).fastmap(square, 0..5000).batches());
    assert!(batches.iter().all(|batch| !batch.is_empty()));
    assert!(batches.len() < 5000, "results of cheap items come many at a time");
    assert_eq!(batches.concat(), (0..5000).map(square).collect::<Vec<_>>());
}

#[test]
fn a_failed_item_is_one_error_between_the_good_runs_of_its_batch() {
    let mut flat = Vec::new();
    for batch in config(2).fastmap(unlucky, 0..1000).batches() {
        match batch {
            Ok(run) => {
                assert!(!run.is_empty());
                flat.extend(run.into_iter().map(Ok));
            }
            Err(error) => flat.push(Err(error.index())),
        }
    }
    assert_eq!(flat, unlucky_answers(1000));
}

#[test]
fn items_that_all_fail_give_no_empty_batches() {
    fn fail(n: u64) -> u64 {
        panic!("{n}")
    }
    let answers = answers(config(2).fastmap(fail, 0..50).batches());
    assert_eq!(answers, (0..50).map(|index| Err(Some(index))).collect::<Vec<Result<Vec<u64>, _>>>());
}

#[test]
fn the_size_hint_of_batches_holds_at_each_step() {
    let mut batches = config(2).fastmap(unlucky, 0..500).batches();
    let mut hints = vec![batches.size_hint()];
    while batches.next().is_some() {
        hints.push(batches.size_hint());
    }
    let steps = hints.len() - 1;
    for (step, (low, high)) in hints.into_iter().enumerate() {
        let left = steps - step;
        let high = high.unwrap();
        assert!(low <= left && left <= high && high <= 501, "{left} left, ({low}, {high})");
    }
    assert_eq!(batches.size_hint(), (0, Some(0)));
}

#[test]
fn unordered_gives_every_index_once_with_its_own_result() {
    let mut results = values(config(3).fastmap(square, 0..5000).unordered());
    results.sort_unstable();
    assert_eq!(results, (0..5000).map(|n| (n as usize, square(n))).collect::<Vec<_>>());
}

#[test]
fn unordered_gives_failed_items_by_the_index_of_their_error() {
    let mut flat = vec![None; 1000];
    for answer in config(2).fastmap(unlucky, 0..1000).unordered() {
        let (index, answer) = match answer {
            Ok((index, result)) => (index, Ok(result)),
            Err(error) => (error.index().unwrap(), Err(error.index())),
        };
        assert!(flat[index].replace(answer).is_none(), "item {index} is answered twice");
    }
    assert_eq!(flat.into_iter().map(Option::unwrap).collect::<Vec<_>>(), unlucky_answers(1000));
}

#[test]
fn unordered_does_not_wait_for_a_slow_item() {
    // The first item waits for a file that is written when another result has come.
    let scratch = Scratch::new();
    let gate = scratch.path().join("gate");
    let items: Vec<_> = (0..20).map(|n| (n == 0).then(|| gate.clone())).collect();
    let config = config(2);
    let mut map = config
        .fastmap(
            |gate: Option<std::path::PathBuf>| gate.is_none_or(|gate| wait_until(|| gate.exists())),
            items,
        )
        .unordered();
    let (first, _) = map.next().unwrap().unwrap();
    assert_ne!(first, 0);
    std::fs::write(&gate, "").unwrap();
    let mut indices: Vec<_> = map.map(|result| result.unwrap()).collect();
    assert!(indices.iter().all(|(_, opened)| *opened));
    indices.push((first, true));
    indices.sort_unstable();
    assert_eq!(indices, (0..20).map(|index| (index, true)).collect::<Vec<_>>());
}

#[test]
fn each_number_of_processes_gives_the_same() {
    for processes in [1, 2, 3, 8] {
        let config = config(processes);
        assert_eq!(answers(config.fastmap(unlucky, 0..300)), unlucky_answers(300), "{processes} processes");
    }
}

#[test]
fn as_many_items_run_at_a_time_as_there_are_processes() {
    for processes in [1, 2, 3, 8] {
        let scratch = Scratch::new();
        let items = vec![(scratch.path(), processes); processes];
        let workers: HashSet<_> =
            values(config(processes).fastmap(meet, items)).into_iter().map(Option::unwrap).collect();
        assert_eq!(workers.len(), processes, "items that wait for each other run in a worker each");
        assert!(!workers.contains(&std::process::id()), "nothing runs in the host");
        assert_eq!(files(&scratch.path()), processes);
    }
}

#[test]
fn no_more_processes_than_asked_for() {
    let workers: HashSet<u32> =
        values(config(2).fastmap(|_: u64| std::process::id(), 0..20_000)).into_iter().collect();
    assert!((1..=2).contains(&workers.len()), "{workers:?}");
}

#[test]
fn a_label_changes_nothing() {
    let map = config(1).fastmap(square, 0..5).label("squares");
    assert!(format!("{map:?}").contains("squares"));
    assert_eq!(values(map), [0, 1, 4, 9, 16]);
}
