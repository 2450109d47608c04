//! What a map and its stops are, drawn from a seed.

use std::time::Duration;

use fastrand::Rng;

/// Stops of a map.
pub(crate) const STOPS: usize = 3;
/// Workers at the service, and of the program under ADAPTIVE.
pub(crate) const WORKERS: u32 = 2;
/// Milliseconds of an item.
const ITEMS: [u64; 4] = [200, 1000, 4000, 15_000];
/// A map goes on for about so long after its last stop.
const AFTER: Duration = Duration::from_secs(8);

/// Where the map runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Policy {
    Cloud,
    Adaptive,
}

/// What stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whom {
    /// The service, its jails and workers.
    All,
    Service,
    /// The program with its workers.
    Host,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) whom: Whom,
    pub(crate) item: Duration,
    /// So long after an answer, for so long.
    pub(crate) stops: Vec<(Duration, Duration)>,
}

impl Policy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Policy::Cloud => "CLOUD",
            Policy::Adaptive => "ADAPTIVE",
        }
    }
}

impl Whom {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Whom::All => "service and workers",
            Whom::Service => "service alone",
            Whom::Host => "program and its workers",
        }
    }
}

impl Plan {
    pub(crate) fn draw(seed: u64, map: u64) -> Plan {
        let mut rng = Rng::with_seed(seed.wrapping_add(map.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // Kinds in turn, lest one be rare.
        let policy = if map.is_multiple_of(2) { Policy::Cloud } else { Policy::Adaptive };
        let whom = match map / 2 % 5 {
            0 | 2 => Whom::All,
            1 | 3 => Whom::Service,
            _ => Whom::Host,
        };
        let item = Duration::from_millis(ITEMS[rng.usize(..ITEMS.len())]);
        let between = |_| Duration::from_millis(rng.u64(0..5000));
        let pauses: Vec<Duration> = (0..STOPS).map(between).collect();
        let stops = pauses.into_iter().map(|pause| (pause, Duration::from_millis(rng.u64(16_000..60_000))));
        Plan { policy, whom, item, stops: stops.collect() }
    }

    /// Items that last beyond the last stop.
    pub(crate) fn items(&self) -> u64 {
        let awake: Duration =
            self.stops.iter().map(|(pause, _)| *pause + 2 * self.item).sum::<Duration>() + AFTER;
        let stopped: Duration = self.stops.iter().map(|(_, stop)| *stop).sum();
        // What goes on while the service stands still.
        let local = match (self.policy, self.whom) {
            (Policy::Cloud, _) => Duration::ZERO,
            (Policy::Adaptive, Whom::Host) => awake,
            (Policy::Adaptive, _) => awake + stopped,
        };
        ((awake + local) * WORKERS).div_duration_f64(self.item).ceil() as u64 + 8
    }
}
