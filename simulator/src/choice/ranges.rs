//! Random worlds: what each may be (options of the program, so that others try worlds that nothing was tuned for) and the
//! draw of one from its seed.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::clock::Nanos;
use crate::shapes::{Fault, Items, Shape};

/// From one value to another; drawn evenly over the logarithm, where both are above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f64,
    high: f64,
}

impl Range {
    /// From `low` to `high`.
    pub fn new(low: f64, high: f64) -> Self {
        Range { low, high }
    }

    fn draw(&self, random: &mut Xoshiro256PlusPlus) -> f64 {
        let share: f64 = random.random();
        if self.high <= 0.0 {
            return 0.0;
        }
        if self.low <= 0.0 {
            // 0 now and then, else from a ten-thousandth of the whole.
            if share < 0.1 {
                return 0.0;
            }
            let low = (self.high / 1e4).max(1.0).min(self.high);
            return low * (self.high / low).powf((share - 0.1) / 0.9);
        }
        self.low * (self.high / self.low).powf(share)
    }
}

impl FromStr for Range {
    type Err = String;

    /// `LOW..HIGH`, or one value.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse::<f64>() {
            Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
            _ => Err(format!("{text:?} is no number of 0 or more; a range is LOW..HIGH, or one value")),
        };
        let (low, high) = match text.split_once("..") {
            Some((low, high)) => (number(low)?, number(high)?),
            None => (number(text)?, number(text)?),
        };
        if low > high {
            return Err(format!("{text:?}: the first is above the second"));
        }
        Ok(Range { low, high })
    }
}

/// What worlds may be.
#[derive(Clone, Debug, clap::Args)]
pub struct Ranges {
    /// Items of the map.
    #[arg(long, default_value = "10..30000")]
    pub items: Range,
    /// Mean seconds of an item.
    #[arg(long, default_value = "1e-5..10")]
    pub item_time: Range,
    /// Bytes of an item.
    #[arg(long, default_value = "8..100000")]
    pub bytes_in: Range,
    /// Bytes of a result.
    #[arg(long, default_value = "8..100000")]
    pub bytes_out: Range,
    /// Workers of this machine.
    #[arg(long, default_value = "1..64")]
    pub local_workers: Range,
    /// Workers of the service; a tenth of the worlds have none, where 0 is the lowest.
    #[arg(long, default_value = "0..10000")]
    pub cloud_workers: Range,
    /// Seconds there and back.
    #[arg(long, default_value = "1e-3..2")]
    pub round_trip: Range,
    /// Bytes a second to the service.
    #[arg(long, default_value = "1e6..1e9")]
    pub up: Range,
    /// Bytes a second from the service.
    #[arg(long, default_value = "1e6..1e9")]
    pub down: Range,
    /// Bytes to upload: the executable and the context, compressed; 0 where it is there.
    #[arg(long, default_value = "0..3e7")]
    pub upload: Range,
    /// Seconds that the service takes for opening a run, beside the way.
    #[arg(long, default_value = "5e-3..0.5")]
    pub opening: Range,
    /// Time of an item there over that here.
    #[arg(long, default_value = "0.8..2")]
    pub slowness: Range,
    /// Share of the service's batches that are lost with their worker.
    #[arg(long, default_value = "0..0.01")]
    pub lost: Range,
    /// Credits for an hour of CPU time.
    #[arg(long, default_value = "1..100")]
    pub price: Range,
    /// Share of the worlds in which the run's cap is below what CLOUD needs.
    #[arg(long, default_value_t = 0.1)]
    pub capped: f64,
    /// Share of the worlds in which the service dies on the way.
    #[arg(long, default_value_t = 0.0)]
    pub dying: f64,
    /// Share of the worlds in which item times drift.
    #[arg(long, default_value_t = 0.0)]
    pub drifting: f64,
    /// Share of the worlds in which the input does not tell its length.
    #[arg(long, default_value_t = 0.0)]
    pub unknown: f64,
    /// Items of the map that never end, and are ended by the limit of time for an item.
    #[arg(long, default_value = "0")]
    pub hanging: Range,
    /// Items that end their worker.
    #[arg(long, default_value = "0")]
    pub crashing: Range,
    /// Items that take many times as long as they would.
    #[arg(long, default_value = "0")]
    pub slow: Range,
    /// How many times longer.
    #[arg(long, default_value = "5..50")]
    pub slower: Range,
    /// The limit of time for an item, over the longest one's time there or here, which it does not hit.
    #[arg(long, default_value = "1.5..20")]
    pub limit: Range,
}

impl Default for Ranges {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            ranges: Ranges,
        }
        <Alone as clap::Parser>::parse_from(["worlds"]).ranges
    }
}

/// One world.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// It was drawn from this.
    pub seed: u64,
    /// The shape of its item times.
    pub shape: Shape,
    /// Mean seconds of an item.
    pub item_time: f64,
    /// Items of the map.
    pub items: u64,
    /// Whether the input tells how many.
    pub length_known: bool,
    /// Bytes of an item, and of a result.
    pub bytes: (f64, f64),
    /// Workers here.
    pub local: usize,
    /// Workers there.
    pub cloud: usize,
    /// Seconds there and back.
    pub round_trip: f64,
    /// Bytes a second to the service.
    pub up: f64,
    /// Bytes a second from it.
    pub down: f64,
    /// Bytes to upload.
    pub upload: f64,
    /// Seconds for opening a run, beside the way.
    pub opening: f64,
    /// Time of an item there over that here.
    pub slowness: f64,
    /// Share of batches that are lost there.
    pub lost: f64,
    /// Credits for a second of CPU time.
    pub cpu_second: f64,
    /// Credits for a byte of results.
    pub result_byte: f64,
    /// Credits that the run may spend.
    pub cap: f64,
    /// When the service dies.
    pub dies: f64,
    /// Seconds that an item may take.
    pub item_timeout: f64,
    /// Items that hang, that crash and that are slow.
    pub faults: [u64; 3],
}

impl Ranges {
    /// The world of a seed, and its items.
    pub fn draw(&self, seed: u64) -> (Place, Items) {
        let random = &mut Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5bf0_3635);
        let chance = |share: f64, random: &mut Xoshiro256PlusPlus| random.random::<f64>() < share;
        let count = self.items.draw(random).round().max(1.0);
        let item_time = self.item_time.draw(random);
        let shape = if chance(self.drifting, random) {
            [Shape::Drifting, Shape::Ascending, Shape::Descending][random.random_range(0..3)]
        } else {
            let steady = [
                Shape::Constant,
                Shape::Uniform,
                Shape::Exponential,
                Shape::TwoKinds,
                Shape::PARETO,
                Shape::Pareto { shape: 1.1, cap: crate::shapes::CAP },
            ];
            steady[random.random_range(0..steady.len())]
        };
        let mut place = Place {
            seed,
            shape,
            item_time,
            items: count as u64,
            length_known: !chance(self.unknown, random),
            bytes: (self.bytes_in.draw(random), self.bytes_out.draw(random)),
            local: self.local_workers.draw(random).round().max(1.0) as usize,
            cloud: self.cloud_workers.draw(random).round() as usize,
            round_trip: self.round_trip.draw(random),
            up: self.up.draw(random),
            down: self.down.draw(random),
            upload: self.upload.draw(random),
            opening: self.opening.draw(random),
            slowness: self.slowness.draw(random),
            lost: self.lost.draw(random),
            cpu_second: self.price.draw(random) / 3600.0,
            result_byte: 10.0 / 1e9,
            cap: f64::INFINITY,
            dies: f64::INFINITY,
            item_timeout: f64::INFINITY,
            faults: [0; 3],
        };
        let items = shape.draw(place.items as usize, Duration::from_secs_f64(item_time), seed);
        let work = items.total() as f64 / 1e9 * place.slowness;
        if chance(self.capped, random) {
            place.cap = work * place.cpu_second * random.random::<f64>();
        }
        if chance(self.dying, random) {
            let alone = work / (place.local + place.cloud) as f64;
            place.dies = random.random::<f64>() * (alone + 2.0 * place.round_trip + place.opening);
        }
        let items = self.with_faults(&mut place, items);
        (place, items)
    }

    /// Puts items that hang, crash or are slow among the others: drawn by themselves, so that a world is otherwise the same.
    fn with_faults(&self, place: &mut Place, items: Items) -> Items {
        if [self.hanging, self.crashing, self.slow].iter().all(|range| range.high <= 0.0) {
            return items;
        }
        let random = &mut Xoshiro256PlusPlus::seed_from_u64(place.seed ^ 0x1d1e_fa17);
        place.faults =
            [self.hanging, self.crashing, self.slow].map(|range| range.draw(random).round() as u64);
        let (mut slow, mut faults) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..place.faults[2] {
            slow.insert(random.random_range(0..place.items), self.slower.draw(random));
        }
        let longer = items.with_faults(&slow, BTreeMap::new(), 0).longest();
        let limit = (longer as f64 * place.slowness.max(1.0) * self.limit.draw(random)) as Nanos;
        place.item_timeout = limit as f64 / 1e9;
        for (count, fault) in [(place.faults[0], Fault::Hangs), (place.faults[1], Fault::Crashes)] {
            for _ in 0..count {
                faults.insert(random.random_range(0..place.items), fault);
            }
        }
        items.with_faults(&slow, faults, limit)
    }
}
