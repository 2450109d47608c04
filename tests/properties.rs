//! For any input, any workers, any budget and any way of reading, the answers are those of `Iterator::map`.
//! What an item does stands in the item, because a function captures nothing. A failure is written beside this file
//! with its seed, and tried first from then on.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::fmt::Debug;

use fastmap::{ErrorKind, Fastmap};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How the answers are read.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Elements,
    Batches,
    Unordered,
}

/// How a map is set up and read.
#[derive(Clone, Copy, Debug)]
struct Plan {
    processes: usize,
    read_ahead: usize,
    mode: Mode,
    /// The consumer leaves after so many steps.
    take: Option<usize>,
    /// The input does not tell its length.
    unsized_input: bool,
    /// The calling thread may take items.
    inline: bool,
}

fn plans() -> impl Strategy<Value = Plan> {
    (
        1..=4usize,
        prop_oneof![Just(1), 1..1000usize, 1000..1_000_000usize],
        select(vec![Mode::Elements, Mode::Batches, Mode::Unordered]),
        prop_oneof![3 => Just(None), 1 => (0..200usize).prop_map(Some)],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(processes, read_ahead, mode, take, unsized_input, inline)| Plan {
            processes,
            read_ahead,
            mode,
            take,
            unsized_input,
            inline,
        })
}

/// A number whose lowest bits say what happens: one in sixteen panics.
fn of_number(n: u64) -> u64 {
    assert!(n % 16 != 5, "unlucky {n}");
    n.rotate_left(7) ^ 0x5555
}

/// Texts that hold a `!` panic.
#[allow(clippy::needless_pass_by_value)]
fn of_text(text: String) -> (usize, String) {
    assert!(!text.contains('!'), "unlucky {text}");
    (text.len(), text.chars().rev().collect())
}

/// Bytes that begin with 255 panic; the first byte says how often they come back.
#[allow(clippy::needless_pass_by_value)]
fn of_bytes(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let first = *bytes.first()?;
    assert!(first != 255, "unlucky");
    Some(bytes.repeat(usize::from(first % 4)))
}

/// Maps by fastmap as planned, and compares with `expected`, in which `None` stands for a panic.
fn check<F, T, R>(func: F, items: Vec<T>, expected: &[Option<R>], plan: Plan) -> Result<(), TestCaseError>
where
    F: Fn(T) -> R + Copy + Send + Sync + 'static,
    T: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let options =
        common::options().local_processes(plan.processes).read_ahead(plan.read_ahead).inline(plan.inline);
    let config = fastmap::init(options).unwrap();
    if plan.unsized_input {
        let mut items = items.into_iter();
        compare(config.fastmap(func, std::iter::from_fn(move || items.next())), expected, plan)
    } else {
        compare(config.fastmap(func, items), expected, plan)
    }
}

fn compare<I, R>(map: Fastmap<I, R>, expected: &[Option<R>], plan: Plan) -> Result<(), TestCaseError>
where
    I: Iterator,
    R: DeserializeOwned + PartialEq + Debug,
{
    let steps = plan.take.unwrap_or(usize::MAX);
    // Index and answer, in the order in which they come.
    let mut answers: Vec<(usize, Option<R>)> = Vec::new();
    let failed = |error: fastmap::Error| {
        prop_assert_eq!(error.kind(), ErrorKind::Panic, "{}", error);
        Ok((error.index().unwrap(), None))
    };
    let whole = match plan.mode {
        Mode::Elements => {
            for answer in map.take(steps) {
                answers.push(match answer {
                    Ok(result) => (answers.len(), Some(result)),
                    Err(error) => failed(error)?,
                });
            }
            answers.len() == expected.len()
        }
        Mode::Batches => {
            let mut batches = map.batches();
            let mut ended = false;
            for _ in 0..steps {
                match batches.next() {
                    Some(Ok(run)) => {
                        prop_assert!(!run.is_empty());
                        for result in run {
                            answers.push((answers.len(), Some(result)));
                        }
                    }
                    Some(Err(error)) => answers.push(failed(error)?),
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            ended
        }
        Mode::Unordered => {
            for answer in map.unordered().take(steps) {
                answers.push(match answer {
                    Ok((index, result)) => (index, Some(result)),
                    Err(error) => failed(error)?,
                });
            }
            answers.len() == expected.len()
        }
    };
    if plan.take.is_none() {
        prop_assert!(whole, "{} answers for {} items", answers.len(), expected.len());
        prop_assert_eq!(answers.len(), expected.len());
    } else if !matches!(plan.mode, Mode::Batches) {
        prop_assert_eq!(answers.len(), steps.min(expected.len()));
    }
    if matches!(plan.mode, Mode::Unordered) {
        answers.sort_by_key(|(index, _)| *index);
        prop_assert!(answers.windows(2).all(|pair| pair[0].0 < pair[1].0), "an item is answered twice");
    } else {
        prop_assert!(answers.iter().enumerate().all(|(at, (index, _))| at == *index), "out of order");
    }
    for (index, answer) in &answers {
        prop_assert_eq!(answer, &expected[*index], "item {}", index);
    }
    Ok(())
}

fn runner(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(runner(32))]

    #[test]
    fn numbers(items in vec(any::<u64>(), 0..3000), plan in plans()) {
        let expected: Vec<_> = items.iter().map(|n| (n % 16 != 5).then(|| of_number(*n))).collect();
        check(of_number, items, &expected, plan)?;
    }

    #[test]
    fn texts(items in vec("[a-zß四]{0,60}!{0,1}", 0..600), plan in plans()) {
        let expected: Vec<_> =
            items.iter().map(|text| (!text.contains('!')).then(|| of_text(text.clone()))).collect();
        check(of_text, items, &expected, plan)?;
    }

    #[test]
    fn bytes(items in vec(vec(prop_oneof![Just(255u8), any::<u8>()], 0..300), 0..400), plan in plans()) {
        let expected: Vec<_> = items
            .iter()
            .map(|bytes| (bytes.first() != Some(&255)).then(|| of_bytes(bytes.clone())))
            .collect();
        check(of_bytes, items, &expected, plan)?;
    }
}
