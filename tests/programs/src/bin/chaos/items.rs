//! What the maps of a round map: items whose bytes follow from their number, so that each end can tell whether what it
//! got is what was sent, and functions that fail as the plan says.

use std::process::{abort, exit};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};

use crate::plan::{Fault, MapPlan, Shape};

/// An item with bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    n: u64,
    fault: Option<Fault>,
    micros: u64,
    /// Words of the result.
    back: usize,
    words: Vec<u64>,
}

/// Its result: (its number, whether it came as it was sent, bytes that follow from the number).
pub(crate) type Answer = (u64, bool, Vec<u64>);

/// A number that looks like any, and is always the same.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let n = (n ^ (n >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    n ^ (n >> 33)
}

fn words(n: u64, count: usize) -> Vec<u64> {
    let first = mix(n);
    (0..count as u64).map(|at| first.wrapping_add(at)).collect()
}

/// How many words an item or a result has.
fn length(shape: Shape, n: u64) -> usize {
    let any = mix(n);
    let bytes = match (shape, any % 8) {
        (Shape::Tiny, _) => 0,
        (Shape::Large, 0) => any >> 44,
        (Shape::Large, _) => 1 << 20,
        // Around what goes through the shared memory, and around what fits a packet.
        (Shape::Mixed, 0) => 8 * 1024 - 64 + (any >> 32) % 128,
        (Shape::Mixed, 1) if n.is_multiple_of(8) => 200 * 1024 - 512 + (any >> 32) % 1024,
        (Shape::Mixed, 2) => (any >> 32) % 60_000,
        (Shape::Mixed, _) => (any >> 32) % 1000,
    };
    bytes as usize / 8
}

fn micros(plan: &MapPlan, n: u64) -> u64 {
    if plan.micros == 0 { 0 } else { mix(n ^ 0x77) % plan.micros }
}

pub(crate) fn item(plan: &MapPlan, n: u64) -> Item {
    Item {
        n,
        fault: plan.lethal.get(&n).copied(),
        micros: micros(plan, n),
        back: length(plan.shape, n + 1_000_000),
        words: words(n, length(plan.shape, n)),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "items are handed over by value")]
pub(crate) fn answer(item: Item) -> Answer {
    work(item.micros);
    happen(item.fault);
    let whole = item.words == words(item.n, item.words.len());
    (item.n, whole, words(item.n + 1, item.back))
}

pub(crate) fn right(plan: &MapPlan, n: u64, (number, whole, back): &Answer) -> bool {
    *number == n && *whole && *back == words(n + 1, length(plan.shape, n + 1_000_000))
}

const FAULTS: [Option<Fault>; 7] = [
    None,
    Some(Fault::Abort),
    Some(Fault::Segfault),
    Some(Fault::Exit),
    Some(Fault::Panic),
    Some(Fault::Kill),
    Some(Fault::Hang),
];

/// A number that holds all of a tiny item: 40 bits of number, 16 of microseconds, 8 of fault.
pub(crate) fn tiny(plan: &MapPlan, n: u64) -> u64 {
    let fault = plan.lethal.get(&n).copied();
    let code = FAULTS.iter().position(|known| *known == fault).expect("all are known");
    n | (micros(plan, n) << 40) | ((code as u64) << 56)
}

pub(crate) fn tiny_answer(item: u64) -> u64 {
    work((item >> 40) & 0xffff);
    happen(FAULTS[(item >> 56) as usize]);
    mix(item & 0xff_ffff_ffff)
}

pub(crate) fn tiny_right(n: u64, answer: u64) -> bool {
    mix(n) == answer
}

/// Short work keeps the CPU, long work sleeps.
fn work(micros: u64) {
    let time = Duration::from_micros(micros);
    if micros > 200 {
        return sleep(time);
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn happen(fault: Option<Fault>) {
    match fault {
        None => {}
        Some(Fault::Abort) => abort(),
        // SAFETY: none: the fault is what is wanted, and the kernel ends the process for it.
        Some(Fault::Segfault) => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        Some(Fault::Exit) => exit(3),
        Some(Fault::Panic) => panic!("as planned"),
        Some(Fault::Kill) => raise(Signal::SIGKILL).expect("a process may kill itself"),
        Some(Fault::Hang) => loop {
            sleep(Duration::from_secs(1000));
        },
    }
}
