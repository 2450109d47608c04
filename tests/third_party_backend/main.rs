//! A backend written by somebody else: worker processes reached over TCP, on the public interface of the crate alone.
//! It keeps every promise of the trait, and typed maps run on it as on any other.
//!
//! `tcp` is the host's end, `worker` the other one, `frames` what travels between them.

mod frames;
mod tcp;
mod worker;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use fastmap::backends::conformance::{self, Failed};
use fastmap::{Error, ErrorKind, FastmapConfig, Options, Verbosity};
use tcp::Tcp;

fastmap::test_support!();

/// The workers of this backend are entered as those of the crate are: before `main`, which belongs to the test harness.
const _: () = {
    extern "C" fn enter() {
        worker::enter();
    }
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;
};

fn tcp(workers: usize) -> Tcp {
    Tcp::new(workers).expect("a listener on the loopback interface")
}

fn config(workers: usize) -> FastmapConfig {
    fastmap::init(Options::new().backend(tcp(workers)).verbosity(Verbosity::Quiet)).expect("good options")
}

#[test]
fn keeps_its_promises_with_one_worker() -> Result<(), Failed> {
    conformance::check(tcp(1))
}

#[test]
fn keeps_its_promises_with_some_workers() -> Result<(), Failed> {
    conformance::check(tcp(3))
}

#[test]
fn ten_thousand_results_come_in_order() {
    let here = std::process::id();
    let results: Vec<(u64, u32)> = config(2)
        .fastmap(|n: u64| (n * n, std::process::id()), 0..10_000)
        .collect::<Result<_, _>>()
        .expect("no item fails");
    assert!(results.iter().map(|(square, _)| *square).eq((0..10_000).map(|n| n * n)));
    assert!(results.iter().all(|(_, process)| *process != here));
}

#[test]
fn a_panic_is_answered_at_its_item() {
    fn picky(n: u32) -> u32 {
        assert!(n % 10 != 3, "not {n}");
        n
    }
    let results: Vec<Result<u32, Error>> = config(2).fastmap(picky, 0..100).collect();
    assert_eq!(results.len(), 100);
    for (n, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => assert_eq!(value as usize, n),
            Err(error) => {
                assert_eq!((error.kind(), error.index(), n % 10), (ErrorKind::Panic, Some(n), 3));
                assert!(error.to_string().contains(&format!("not {n}")), "{error}");
            }
        }
    }
}

#[test]
fn an_item_that_ends_its_worker_is_found_by_halving() {
    fn lethal(n: u32) -> u32 {
        if n == 137 {
            std::process::exit(9);
        }
        n
    }
    let mut results: Vec<Result<u32, Error>> = config(2).fastmap(lethal, 0..200).collect();
    assert_eq!(results.len(), 200);
    let error = results.remove(137).expect_err("it can't be answered");
    assert_eq!((error.kind(), error.index()), (ErrorKind::Crash, Some(137)));
    assert!(error.to_string().contains("exit(9)"), "{error}");
    let others: Vec<u32> = results.into_iter().collect::<Result<_, _>>().expect("no other item fails");
    assert!(others.into_iter().eq((0..200).filter(|n| *n != 137)));
}

#[test]
fn contexts_and_states_reach_the_function() {
    let config = config(2);
    let scaled = config.fastmap_with(7u64, |by: &u64, n: u64| by * n, 0..500);
    assert!(scaled.map(|result| result.expect("no item fails")).eq((0..500).map(|n| 7 * n)));
    // Each worker builds its state once: it never sees the same count twice.
    let counts = config.fastmap_init(
        || 0u32,
        |calls: &mut u32, (): ()| {
            *calls += 1;
            (std::process::id(), *calls)
        },
        std::iter::repeat_n((), 500),
    );
    let mut counts: Vec<(u32, u32)> = counts.collect::<Result<_, _>>().expect("no item fails");
    counts.sort_unstable();
    counts.dedup();
    assert_eq!(counts.len(), 500);
}

#[test]
fn a_map_inside_the_function_runs_in_its_worker() {
    fn outer(n: u32) -> (u32, Vec<u32>) {
        let inner = fastmap::fastmap(|_: u32| std::process::id(), 0..n);
        (std::process::id(), inner.collect::<Result<_, _>>().expect("no item fails"))
    }
    for answer in config(2).fastmap(outer, 0..20) {
        let (worker, inner) = answer.expect("a result");
        assert!(inner.iter().all(|process| *process == worker), "{worker}: {inner:?}");
    }
}

#[test]
fn two_maps_in_step_share_the_workers() {
    let config = config(2);
    let squares = config.fastmap(|n: u64| n * n, 0..2_000);
    let cubes = config.fastmap(|n: u64| n * n * n, 0..2_000);
    for (n, (square, cube)) in (0..).zip(squares.zip(cubes)) {
        assert_eq!((square.expect("a square"), cube.expect("a cube")), (n * n, n * n * n));
    }
}

#[test]
fn what_it_can_not_do_is_refused_in_words() {
    let config = config(1);
    let mut map = config.fastmap(|n: u32| n, 0..10).item_timeout(Duration::from_secs(1));
    let error = map.next().expect("an answer").expect_err("it times no items");
    assert!(error.to_string().contains("item timeouts"), "{error}");
    assert!(map.next().is_none());
}

#[test]
fn a_stranger_at_the_door_gets_nothing() {
    let backend = tcp(1);
    let mut stranger = TcpStream::connect(backend.address()).expect("the door");
    stranger.write_all(&[b'0'; 48]).expect("room for a greeting");
    assert_eq!(stranger.read(&mut [0; 8]).expect("a clean end"), 0);
    let config =
        fastmap::init(Options::new().backend(backend).verbosity(Verbosity::Quiet)).expect("good options");
    assert_eq!(config.fastmap(|n: u32| n + 1, 0..1).next().expect("an answer").expect("a result"), 1);
}

#[test]
fn no_process_is_left_also_of_one_that_is_in_an_item() {
    fn sleepy(n: u32) -> u32 {
        if n > 0 {
            sleep(Duration::from_secs(3600));
        }
        std::process::id()
    }
    let config = config(1);
    let mut map = config.fastmap(sleepy, 0..2);
    let worker = map.next().expect("an answer").expect("a result");
    assert!(Path::new(&format!("/proc/{worker}")).exists());
    drop(map);
    drop(config);
    assert!(!Path::new(&format!("/proc/{worker}")).exists(), "process {worker} is there, or is not reaped");
}
