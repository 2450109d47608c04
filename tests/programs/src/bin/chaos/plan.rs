//! What a round is made of: maps, what is lethal in them, who strikes and when. Drawn from a seed, so that a round that
//! failed can be had again: the same plan, though not the same timing. Drawn alike by the host and by who watches it.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How an item ends its worker, or itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    Abort,
    Segfault,
    Exit,
    Panic,
    Kill,
    /// Never returns: only where items have a limit of time.
    Hang,
}

/// What an item carries in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A number in, a number out.
    Tiny,
    /// Bytes of any length, from none to what no longer fits a packet.
    Mixed,
    /// Mostly 1 MiB both ways.
    Large,
}

/// How the map is made and asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Elements,
    Batches,
    Unordered,
    /// With a context of so many bytes.
    Context(usize),
    /// With state that each worker makes.
    State,
}

/// What the consumer does beside asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumer {
    Steady,
    /// Rests for some milliseconds, after each so many answers.
    Pauses(u64),
    /// Takes so many answers and leaves.
    Leaves(u64),
}

/// How two maps of a round are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    InTurn,
    Zipped,
    Threads,
}

/// What the system refuses the host for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    Descriptors,
    Processes,
    Memory,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Hardship {
    pub(crate) shortage: Shortage,
    pub(crate) begins: Duration,
    pub(crate) lasts: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct MapPlan {
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
    pub(crate) items: u64,
    pub(crate) consumer: Consumer,
    pub(crate) lethal: BTreeMap<u64, Fault>,
    /// Most microseconds that an item takes; each draws its own.
    pub(crate) micros: u64,
    /// How often an item that fails is tried again.
    pub(crate) retries: u32,
    /// Results are recorded, and where the host is killed another one goes on from there.
    pub(crate) checkpoint: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) processes: usize,
    pub(crate) read_ahead: Option<usize>,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) maps: Vec<MapPlan>,
    pub(crate) together: Together,
    pub(crate) hardship: Option<Hardship>,
    /// Bytes of the disk that checkpoints are on: less than they need.
    pub(crate) small_disk: Option<u64>,
    /// The host is killed at this time.
    pub(crate) host_dies: Option<Duration>,
    /// Mean time between two strikes; `None`: a quiet round.
    pub(crate) strikes: Option<Duration>,
    /// Seed of the strikes.
    pub(crate) storm: u64,
}

impl Plan {
    pub(crate) fn draw(seed: u64, round: u64) -> Plan {
        let mut rng = Rng::with_seed(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let rng = &mut rng;
        let item_timeout = one_in(rng, 8).then_some(Duration::from_secs(1));
        let mut hardship = one_in(rng, 6).then(|| Hardship {
            shortage: pick(rng, &[Shortage::Descriptors, Shortage::Processes, Shortage::Memory]),
            begins: Duration::from_millis(rng.u64(0..80)),
            lasts: Duration::from_millis(rng.u64(20..400)),
        });
        let maps: Vec<MapPlan> =
            (0..rng.usize(1..=2)).map(|_| MapPlan::draw(rng, item_timeout.is_some())).collect();
        let recorded = maps.iter().any(|map| map.checkpoint);
        let small_disk = (recorded && one_in(rng, 3)).then(|| rng.u64(300_000..4_000_000));
        let small = |map: &MapPlan| map.shape == Shape::Tiny && !matches!(map.mode, Mode::Context(10_000..));
        if let Some(hardship) = &mut hardship
            && hardship.shortage == Shortage::Memory
            && !maps.iter().all(small)
        {
            // The host itself would end for want of memory.
            hardship.shortage = Shortage::Descriptors;
        }
        // Seldom enough that an item is not killed four times over.
        let large = maps.iter().any(|map| map.shape == Shape::Large);
        let pauses = if large { 80..160 } else { 15..80 };
        Plan {
            processes: rng.usize(1..=4),
            read_ahead: one_in(rng, 3).then(|| rng.usize(1..3_000_000)),
            item_timeout,
            maps,
            together: pick(rng, &[Together::InTurn, Together::Zipped, Together::Threads]),
            hardship,
            small_disk,
            host_dies: one_in(rng, if recorded { 3 } else { 12 })
                .then(|| Duration::from_millis(rng.u64(5..400))),
            strikes: (!one_in(rng, 8)).then(|| Duration::from_millis(rng.u64(pauses))),
            storm: rng.u64(..),
        }
    }

    /// The same for a second host that goes on where the first was killed: nobody strikes, nothing is refused.
    pub(crate) fn in_peace(self) -> Plan {
        Plan { hardship: None, host_dies: None, strikes: None, ..self }
    }
}

impl MapPlan {
    fn draw(rng: &mut Rng, limited: bool) -> MapPlan {
        let shape = pick(rng, &[Shape::Tiny, Shape::Tiny, Shape::Mixed, Shape::Mixed, Shape::Large]);
        let items = match shape {
            Shape::Tiny => rng.u64(1..30_000),
            Shape::Mixed => rng.u64(1..1500),
            Shape::Large => rng.u64(1..60),
        };
        // Around a millisecond a worker's helper thread takes over from its main thread.
        let micros = pick(rng, &[0, 100, 1000, 3000, 8000]).min(1_500_000 / items);
        let mut lethal = BTreeMap::new();
        if one_in(rng, 2) {
            for _ in 0..rng.u64(1..=5) {
                let faults =
                    [Fault::Abort, Fault::Segfault, Fault::Exit, Fault::Panic, Fault::Panic, Fault::Kill];
                lethal.insert(rng.u64(0..items), pick(rng, &faults));
            }
        }
        if limited {
            lethal.insert(rng.u64(0..items), Fault::Hang);
        }
        let mode = match rng.u8(0..8) {
            0..3 => Mode::Elements,
            3 => Mode::Batches,
            4 | 5 => Mode::Unordered,
            6 => Mode::Context(pick(rng, &[0, 10_000, 150_000, 3_000_000, 20_000_000])),
            _ => Mode::State,
        };
        let consumer = match rng.u8(0..8) {
            0 => Consumer::Leaves(rng.u64(0..items)),
            1 | 2 => Consumer::Pauses(rng.u64(1..=items)),
            _ => Consumer::Steady,
        };
        let retries = if one_in(rng, 4) { rng.u32(1..3) } else { 0 };
        let checkpoint = one_in(rng, 5);
        MapPlan { shape, mode, items, consumer, lethal, micros, retries, checkpoint }
    }
}

/// One blow from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    Kill,
    /// SIGSTOP, and SIGCONT after so long.
    Stop(Duration),
    /// SIGINT or SIGHUP, which workers ignore.
    Interrupt,
    /// The lowest priority from now on.
    Slow,
    /// Host and workers are stopped as by Ctrl-Z, and go on after so long.
    Suspend(Duration),
}

impl Strike {
    pub(crate) fn draw(rng: &mut Rng, plan: &Plan) -> Strike {
        // With a limit of time for items, a worker must not be stopped for so long, nor be starved by the others: at the
        // lowest priority an item of 3 ms was seen to take more than a second.
        let longest = if plan.item_timeout.is_some() { 100 } else { 300 };
        let pause = Duration::from_millis(rng.u64(1..longest));
        match rng.u8(0..20) {
            0..11 => Strike::Kill,
            11..15 => Strike::Stop(pause),
            17 if plan.item_timeout.is_none() => Strike::Slow,
            15..18 => Strike::Interrupt,
            _ => Strike::Suspend(pause / 2),
        }
    }
}

fn one_in(rng: &mut Rng, many: u32) -> bool {
    rng.u32(0..many) == 0
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())]
}
