//! What is written to stderr at each verbosity, seen from outside: this test program runs itself as a child.

use std::process::Command;

use fastmap::{ExecPolicy, Options, Verbosity};

use crate::common;

/// The child: squares 1000 numbers at the verbosity that it was started as, or maps inside a map.
#[test]
fn program() {
    let Some(case) = common::case() else { return };
    let verbosity = match case.as_str() {
        "quiet" | "nested" => Verbosity::Quiet,
        "normal" => Verbosity::Normal,
        _ => Verbosity::Loud,
    };
    let options = Options::new().exec_policy(ExecPolicy::Local).local_processes(2).verbosity(verbosity);
    let config = fastmap::init(options).unwrap();
    if case == "nested" {
        let nested = |n: u64| common::values(fastmap::fastmap(|k: u64| k, 0..n)).len();
        assert_eq!(common::values(config.fastmap(nested, 0..3)), [0, 1, 2]);
        return;
    }
    let unlucky = |n: u64| {
        assert!(n != 500, "unlucky");
        n * n
    };
    let answers = common::answers(config.fastmap(unlucky, 0..1000).label("squares"));
    assert_eq!(answers.len(), 1000);
}

fn child(case: &str) -> Command {
    common::child("output::program", case)
}

#[test]
fn quiet_writes_nothing() {
    assert_eq!(common::stderr_of(child("quiet")), "");
}

#[test]
fn what_maps_inside_a_quiet_map_is_quiet() {
    assert_eq!(common::stderr_of(child("nested")), "");
}

#[test]
fn normal_writes_one_closing_line() {
    let stderr = common::stderr_of(child("normal"));
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].starts_with("fastmap: squares: 1000 items in "), "{stderr}");
    assert!(lines[0].contains("1 failed") && lines[0].contains("local"), "{stderr}");
}

#[test]
fn loud_writes_each_batch_and_the_closing_line() {
    let stderr = common::stderr_of(child("loud"));
    assert!(stderr.lines().all(|line| line.starts_with("fastmap: squares: ")), "{stderr}");
    assert!(stderr.lines().last().is_some_and(|line| line.contains("1000 items in ")), "{stderr}");
    // "sent items 0..1 (…)" and "… answered items 0..1 in …": each item is in one of both.
    for verb in ["sent", "answered"] {
        let mut ranges: Vec<(u64, u64)> = stderr
            .lines()
            .filter_map(|line| line.split_once(&format!("{verb} items "))?.1.split_whitespace().next())
            .map(|range| range.split_once("..").unwrap())
            .map(|(first, end)| (first.parse().unwrap(), end.parse().unwrap()))
            .collect();
        ranges.sort_unstable();
        let end = ranges.iter().fold(0, |end, (first, next)| {
            assert_eq!(*first, end, "{verb} in one piece: {ranges:?}");
            *next
        });
        assert_eq!(end, 1000, "{verb}: {ranges:?}");
    }
}
