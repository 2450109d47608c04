//! Panics of the function: an error in the place of its item, and the map goes on.
//! Crashes of workers and time limits have test programs of their own.

use std::collections::HashSet;

use fastmap::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::common::{answers, config, values};

const LINE: u32 = line!() + 3;

fn even(n: u64) -> u64 {
    assert!(n.is_multiple_of(2), "{n} is odd, that is: not even");
    n / 2
}

#[test]
fn a_panic_is_an_error_with_kind_index_words_and_place() {
    let mut map = config(1).fastmap(even, [0, 2, 5, 6]);
    assert_eq!(map.next().unwrap().unwrap(), 0);
    assert_eq!(map.next().unwrap().unwrap(), 1);
    let error = map.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panic);
    assert_eq!(error.index(), Some(2));
    let text = error.to_string();
    assert!(text.contains("5 is odd, that is: not even"), "{text}");
    assert!(text.contains("item 2"), "{text}");
    assert!(text.contains(&format!("{}:{LINE}:", file!())), "{text}");
    assert_eq!(map.next().unwrap().unwrap(), 3);
    assert!(map.next().is_none());
}

#[test]
fn panics_everywhere_cost_their_own_items_only() {
    for processes in [1, 4] {
        let answers = answers(config(processes).fastmap(even, 0..2000));
        let expected: Vec<_> =
            (0..2000u64).map(|n| if n % 2 == 0 { Ok(n / 2) } else { Err(Some(n as usize)) }).collect();
        assert_eq!(answers, expected, "{processes} processes");
    }
}

#[test]
fn a_worker_lives_on_after_a_panic() {
    fn pid_or_panic(n: u64) -> u32 {
        assert!(!n.is_multiple_of(3), "{n}");
        std::process::id()
    }
    let pids: HashSet<u32> = config(1).fastmap(pid_or_panic, 0..300).filter_map(Result::ok).collect();
    assert_eq!(pids.len(), 1);
}

#[test]
fn when_all_items_panic_all_are_told() {
    fn fail(n: u64) -> u64 {
        panic!("no {n}")
    }
    let config = config(2);
    let errors: Vec<_> = config.fastmap(fail, 0..500).map(Result::unwrap_err).collect();
    assert_eq!(errors.len(), 500);
    for (index, error) in errors.iter().enumerate() {
        assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(index)));
        // Behind that line are the frames of the function, where the environment asks for them.
        let text = error.to_string();
        assert!(text.lines().next().is_some_and(|line| line.ends_with(&format!(": no {index}"))), "{text}");
    }
    assert_eq!(values(config.fastmap(|n: u64| n, 0..3)), [0, 1, 2]);
}

#[test]
fn equal_long_errors_come_in_full_a_few_times_and_name_the_first_item_then() {
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    fn size(either: Either) -> u64 {
        match either {
            Either::Number(number) => number,
            Either::Text(text) => text.len() as u64,
        }
    }
    let items = (0..1000).map(Either::Number);
    let errors: Vec<_> = config(2).fastmap(size, items).map(Result::unwrap_err).collect();
    assert_eq!(errors.len(), 1000);
    for (index, error) in errors.iter().enumerate() {
        assert_eq!((error.kind(), error.index()), (ErrorKind::Serialize, Some(index)));
        let text = error.to_string();
        assert!(text.starts_with(&format!("item {index}: cannot ")), "{text}");
        if index < 3 {
            assert!(text.contains("wrap it in fastmap::Json"), "{text}");
        } else {
            assert!(text.ends_with("… (the same as item 0's)") && text.len() < 250, "{text}");
        }
        // What a developer asks for has all of it.
        assert!(format!("{error:#?}").contains("wrap it in fastmap::Json"), "{error:#?}");
    }
}

#[test]
fn a_panic_whose_payload_is_no_text_is_one_as_well() {
    fn throw(n: u64) -> u64 {
        if n == 1 { std::panic::panic_any(n) } else { n }
    }
    let mut map = config(1).fastmap(throw, 0..3);
    assert_eq!(map.next().unwrap().unwrap(), 0);
    let error = map.next().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(1)));
    assert!(error.to_string().contains(file!()), "{error}");
    assert_eq!(map.next().unwrap().unwrap(), 2);
}

#[test]
fn a_payload_that_panics_when_dropped_harms_nothing() {
    struct Mine;
    impl Drop for Mine {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    fn throw(n: u64) -> u64 {
        if n == 1 { std::panic::panic_any(Mine) } else { n }
    }
    assert_eq!(answers(config(1).fastmap(throw, 0..3)), [Ok(0), Err(Some(1)), Ok(2)]);
}

#[test]
fn built_in_panics_are_told() {
    fn index(n: usize) -> u8 {
        [1, 2, 3][n] / (2 - n as u8)
    }
    let errors: Vec<_> = config(1).fastmap(index, 0..4).filter_map(Result::err).collect();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].to_string().contains("divide by zero"), "{}", errors[0]);
    assert!(errors[1].to_string().contains("index out of bounds"), "{}", errors[1]);
}

#[test]
fn collect_stops_at_the_first_error() {
    let error = config(2).fastmap(even, 0..).collect::<Result<Vec<_>, _>>().unwrap_err();
    assert_eq!(error.index(), Some(1));
}
