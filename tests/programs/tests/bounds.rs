//! What a map holds is bounded, whatever the items are like, and no bound is so small that a map stands still.

use std::process::Command;

use fastmap_test_programs::{Ended, Report, Running, program};

const MEGABYTE: u64 = 1 << 20;

fn host(arguments: &[&str], read_ahead: u64) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(arguments).env("FASTMAP_READ_AHEAD", read_ahead.to_string());
    command
}

fn all_good(command: &mut Command, items: usize) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (items, items), "{:#?}", report.errors);
    ended
}

fn peak(ended: &Ended) -> u64 {
    let line = ended.stdout.iter().find_map(|line| line.strip_prefix("peak "));
    line.expect("the host tells its peak").parse().expect("KB")
}

/// A size for every day, or what the variable says.
fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn results_far_larger_than_their_inputs_wait_within_the_budget() {
    let ended = all_good(&mut host(&["results", "200"], 16 * MEGABYTE), 200);
    assert!(peak(&ended) <= 48 * 1024, "{} KB", peak(&ended));
}

#[test]
fn a_gigabyte_flows_through_a_host_of_megabytes() {
    let items = size("FASTMAP_TEST_STREAM_MIB", 1024);
    let ended = all_good(&mut host(&["stream", &items.to_string()], 16 * MEGABYTE), items);
    assert!(peak(&ended) <= 48 * 1024, "{} KB", peak(&ended));
}

#[test]
fn one_item_may_be_larger_than_the_whole_budget() {
    let bytes = size("FASTMAP_TEST_ITEM_BYTES", 100_000_000);
    all_good(&mut host(&["one", &bytes.to_string()], 16 * MEGABYTE), 3);
}

#[test]
fn two_zipped_maps_with_tiny_budgets_both_go_on() {
    for budget in [1, 1000, 10_000] {
        all_good(&mut host(&["zipped"], budget), 500);
    }
}

#[test]
fn one_byte_of_read_ahead_is_enough() {
    all_good(&mut host(&["squares", "2000"], 1), 2000);
}
