//! Many maps, many configurations, maps left midway: what the host and its workers hold stays what it was.

use fastmap_test_programs::{Running, program};

/// What the host measured of itself at one time.
#[derive(Debug)]
struct Measure {
    files: u64,
    threads: u64,
    zombies: u64,
    memory: u64,
    worker: u64,
    workers: String,
}

/// Runs a scenario with that many rounds; gives what was measured after the first rounds, and at the end.
fn measured(scenario: &str, rounds: u64, processes: u64) -> [Measure; 2] {
    told(scenario, rounds, processes).0
}

/// The same, and all lines.
fn told(scenario: &str, rounds: u64, processes: u64) -> ([Measure; 2], Vec<String>) {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args([scenario, &rounds.to_string()]).env("FASTMAP_LOCAL_PROCESSES", processes.to_string());
    let ended = Running::start(&mut command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    assert!(!ended.stdout.iter().any(|line| line.starts_with("wrong")), "{ended:#?}");
    let measures: Vec<Measure> = ended.stdout.iter().filter_map(|line| parse(line)).collect();
    (measures.try_into().expect("two measures"), ended.stdout)
}

fn parse(line: &str) -> Option<Measure> {
    let words: Vec<&str> = line.strip_prefix("measure ")?.splitn(12, ' ').collect();
    let number = |at: usize| words[at].parse().expect("a number");
    Some(Measure {
        files: number(1),
        threads: number(3),
        zombies: number(5),
        memory: number(7),
        worker: number(9),
        workers: words[11].to_owned(),
    })
}

/// Threads and files of the end are those of the beginning, and memory has grown by `slack` KB at most.
fn flat([before, after]: &[Measure; 2], slack: u64) {
    assert_eq!((before.zombies, after.zombies), (0, 0), "{before:#?} {after:#?}");
    assert!(after.files <= before.files, "{before:#?} {after:#?}");
    assert!(after.threads <= before.threads, "{before:#?} {after:#?}");
    assert!(after.memory <= before.memory + slack, "{before:#?} {after:#?}");
    assert!(after.worker <= before.worker + slack, "{before:#?} {after:#?}");
}

#[test]
fn a_thousand_maps_on_one_config_leave_nothing_in_host_and_workers() {
    let measures = measured("maps", 1000, 2);
    flat(&measures, 1024);
    assert_eq!(measures[0].workers, measures[1].workers);
}

#[test]
fn configs_one_after_another_leave_nothing() {
    let rounds =
        std::env::var("FASTMAP_TEST_CONFIGS").map_or(100, |rounds| rounds.parse().expect("a number"));
    let measures = measured("configs", rounds, 2);
    flat(&measures, 1024);
    assert_eq!(measures[1].workers, "[]");
}

#[test]
fn maps_dropped_midway_leave_nothing_and_the_workers_healthy() {
    const ROUNDS: u64 = 200;
    let (measures, lines) = told("dropped", ROUNDS, 2);
    flat(&measures, 4096);
    // One that a loaded machine lets stand in an item for 0.1 s after its map is replaced; no drop ends one
    // as such.
    let all = lines.iter().find_map(|line| line.strip_prefix("workers in all ")?.parse::<u64>().ok());
    assert!(all.is_some_and(|all| all < 2 + ROUNDS / 10), "{all:?} workers");
}

#[test]
fn contexts_are_freed_at_the_end_of_their_map() {
    flat(&measured("contexts", 100, 2), 4096);
}

#[test]
fn a_worker_stuck_in_an_item_of_a_dropped_map_is_ended_for_the_next_map() {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    let ended = Running::start(command.arg("stuck").env("FASTMAP_LOCAL_PROCESSES", "1")).finish();
    assert!(ended.status.success(), "{ended:#?}");
    assert_eq!(ended.stdout, ["first Some(Ok(0))", "second map done"], "{ended:#?}");
}
