//! How long the items take: the shapes that a map's items can have, drawn from a seeded generator.
//! Made by the experiments, read by the virtual workers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, Exp1, Pareto, StandardNormal, Uniform};

use crate::clock::{Nanos, nanos};

/// The longest item, in means, that the tables let a Pareto shape have. Uncapped, the longest of 10 million Pareto(1.5)
/// items is about 15,000 means, and no map of 1,000 items a worker is through before that one. 50 means is what the longest of
/// 2,000 uncapped items comes to: those of the measured run had 46 ms with a mean of 0.94 ms.
pub const CAP: f64 = 50.0;

/// Which times the items of a map take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// All alike.
    Constant,
    /// Memoryless.
    Exponential,
    /// One in ten takes ten times as long as the others.
    TwoKinds,
    /// Evenly spread from nothing to twice the mean.
    Uniform,
    /// Few long ones that hold much of the work.
    Pareto {
        /// Above 1; the smaller, the more of the work is in the long ones.
        shape: f64,
        /// The longest item in means: what is longer is drawn again, not clamped.
        cap: f64,
    },
    /// Items near each other are alike: a random walk of the logarithm that forgets within about 1,000 items.
    Drifting,
    /// [`Shape::PARETO`], the short ones first: what was seen always promises less than what comes.
    Ascending,
    /// [`Shape::PARETO`], the long ones first.
    Descending,
}

impl Shape {
    /// The shape that the rule is chosen by.
    pub const PARETO: Shape = Shape::Pareto { shape: 1.5, cap: CAP };

    /// All shapes of the tables.
    pub const ALL: [Shape; 6] = [
        Shape::Uniform,
        Shape::PARETO,
        Shape::Pareto { shape: 1.1, cap: CAP },
        Shape::Drifting,
        Shape::Ascending,
        Shape::Descending,
    ];

    /// Times of `count` items of that mean.
    ///
    /// # Panics
    /// If a Pareto's shape is not above 1: it has no mean.
    pub fn draw(self, count: usize, mean: Duration, seed: u64) -> Items {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let times = match self {
            Shape::Constant => vec![1.0; count],
            Shape::Exponential => Exp1.sample_iter(&mut random).take(count).collect(),
            Shape::TwoKinds => {
                let kinds = Uniform::new(0.0, 1.0).expect("0 is below 1");
                let kind = |at: f64| if at < 0.1 { 10.0 } else { 1.0 };
                kinds.sample_iter(&mut random).take(count).map(kind).collect()
            }
            Shape::Uniform => {
                let uniform = Uniform::new(0.0, 2.0).expect("0 is below 2");
                uniform.sample_iter(&mut random).take(count).collect()
            }
            Shape::Pareto { shape, cap } => pareto(shape, cap, count, &mut random),
            Shape::Drifting => drifting(count, &mut random),
            Shape::Ascending | Shape::Descending => {
                let mut times = pareto(1.5, CAP, count, &mut random);
                times.sort_unstable_by(f64::total_cmp);
                if self == Shape::Descending {
                    times.reverse();
                }
                times
            }
        };
        Items::of(&times, mean)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Constant => f.write_str("constant"),
            Shape::Exponential => f.write_str("exponential"),
            Shape::TwoKinds => f.write_str("two kinds"),
            Shape::Uniform => f.write_str("uniform"),
            Shape::Pareto { shape, .. } => write!(f, "Pareto({shape})"),
            Shape::Drifting => f.write_str("drifting"),
            Shape::Ascending => f.write_str("ascending"),
            Shape::Descending => f.write_str("descending"),
        }
    }
}

/// Draws until below the cut: clamping instead would make thousands of items of exactly the longest time.
fn pareto(shape: f64, cap: f64, count: usize, random: &mut Xoshiro256PlusPlus) -> Vec<f64> {
    assert!(shape > 1.0, "a Pareto distribution of shape {shape} has no mean");
    let pareto = Pareto::new(1.0, shape).expect("scale and shape are above 0");
    // The mean depends on the cut, which is given in means: a few rounds settle it.
    let mean = |cut: f64| shape / (shape - 1.0) * (1.0 - cut.powf(1.0 - shape)) / (1.0 - cut.powf(-shape));
    let cut = (0..60).fold(cap, |cut, _| cap * mean(cut));
    pareto.sample_iter(random).filter(|time| *time < cut).take(count).collect()
}

fn drifting(count: usize, random: &mut Xoshiro256PlusPlus) -> Vec<f64> {
    const MEMORY: f64 = 0.999;
    let step = (1.0 - MEMORY * MEMORY).sqrt();
    let mut log: f64 = StandardNormal.sample(random);
    (0..count)
        .map(|_| {
            let shock: f64 = StandardNormal.sample(random);
            log = MEMORY * log + step * shock;
            log.exp()
        })
        .collect()
}

/// What an item does to its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never ends: its worker is ended when its time is over.
    Hangs,
    /// It ends its worker, when its time is over.
    Crashes,
}

/// The times of a map's items, as sums, so that any stretch of them is one subtraction.
#[derive(Clone, Debug)]
pub struct Items {
    /// `sums[i]`: time of all items before `i`.
    sums: Vec<Nanos>,
    longest: Nanos,
    /// Items that give no answer.
    faults: BTreeMap<u64, Fault>,
}

impl Items {
    /// Scales `times` to a mean.
    pub fn of(times: &[f64], mean: Duration) -> Self {
        let whole: f64 = times.iter().sum();
        let scale = if whole > 0.0 { nanos(mean) as f64 * times.len() as f64 / whole } else { 0.0 };
        Items::of_nanos(times.iter().map(|time| (time * scale) as Nanos))
    }

    /// Items of these times, each at least 1 ns.
    pub fn of_nanos(times: impl IntoIterator<Item = Nanos>) -> Self {
        let (mut sum, mut longest) = (0, 0);
        let mut sums = vec![0];
        for time in times {
            let time = time.max(1);
            longest = longest.max(time);
            sum += time;
            sums.push(sum);
        }
        Items { sums, longest, faults: BTreeMap::new() }
    }

    /// The same with items that are so many times as long, and with items that give no answer: one that hangs takes `limit`.
    pub fn with_faults(
        &self,
        slow: &BTreeMap<u64, f64>,
        faults: BTreeMap<u64, Fault>,
        limit: Nanos,
    ) -> Items {
        let time = |item: u64| match faults.get(&item) {
            Some(Fault::Hangs) => limit,
            _ => (self.between(item, item + 1) as f64 * slow.get(&item).unwrap_or(&1.0)) as Nanos,
        };
        let longer = Items::of_nanos((0..self.count()).map(time));
        Items { faults, ..longer }
    }

    /// The first item of a stretch that gives no answer.
    pub fn first_fault(&self, first: u64, end: u64) -> Option<(u64, Fault)> {
        self.faults.range(first..end.max(first)).next().map(|(item, fault)| (*item, *fault))
    }

    /// Time of a stretch where items take so many times as long: a limit is no longer for that.
    pub fn slowed(&self, first: u64, end: u64, slowness: f64) -> Nanos {
        let hangs = self.faults.range(first..end.max(first)).filter(|(_, fault)| **fault == Fault::Hangs);
        let hung: Nanos = hangs.map(|(item, _)| self.between(*item, *item + 1)).sum();
        ((self.between(first, end) - hung) as f64 * slowness) as Nanos + hung
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.sums.len() as u64 - 1
    }

    /// Time of all items together.
    pub fn total(&self) -> Nanos {
        self.between(0, self.count())
    }

    /// Time of the longest item.
    pub fn longest(&self) -> Nanos {
        self.longest
    }

    /// Time of the items from one to before another.
    pub fn between(&self, first: u64, end: u64) -> Nanos {
        self.sums[end as usize] - self.sums[first as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_has_its_mean_and_the_same_seed_gives_the_same_items() {
        let mean = Duration::from_millis(1);
        for shape in Shape::ALL {
            let items = shape.draw(10_000, mean, 7);
            let seen = items.total() as f64 / items.count() as f64;
            assert!((seen / 1e6 - 1.0).abs() < 1e-3, "{shape}: {seen} ns");
            assert_eq!(items.sums, shape.draw(10_000, mean, 7).sums);
        }
    }

    #[test]
    fn no_pareto_item_is_longer_than_the_cap() {
        for shape in [1.1, 1.5] {
            let items = Shape::Pareto { shape, cap: CAP }.draw(1_000_000, Duration::from_millis(1), 1);
            let longest = items.longest() as f64 / 1e6;
            assert!(longest > 0.8 * CAP && longest < 1.1 * CAP, "Pareto({shape}): {longest} means");
        }
    }
}
