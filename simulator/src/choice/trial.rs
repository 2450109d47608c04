//! One world under all three policies, and what is to be said of it.

use fastmap_backends::adaptive::policy::Options;

use super::ranges::{Place, Ranges};
use super::simulation::{Mode, SimulatedMap, simulate};
use crate::shapes::Items;

/// What came of one world.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The world.
    pub place: Place,
    /// Everything here.
    pub local: SimulatedMap,
    /// Everything there.
    pub cloud: SimulatedMap,
    /// As the policy says.
    pub adaptive: SimulatedMap,
    /// Seconds that are within reach of whoever knows the world, but not the single items.
    pub ideal: f64,
    options: Options,
}

/// The service helps where the ideal is sooner than LOCAL by this share.
const HELPS: f64 = 0.01;

/// Plays the world of a seed.
pub fn trial(ranges: &Ranges, options: Options, seed: u64) -> Trial {
    let (place, items) = ranges.draw(seed);
    let local = simulate(&place, &items, Mode::Local);
    let cloud = match place.cloud {
        0 => SimulatedMap { seconds: f64::INFINITY, ..SimulatedMap::default() },
        _ => simulate(&place, &items, Mode::Cloud),
    };
    let adaptive = simulate(&place, &items, Mode::Adaptive(options));
    let ideal = ideal(&place, &items, local.seconds);
    Trial { place, local, cloud, adaptive, ideal, options }
}

/// What LOCAL takes, less what flows to the service like water from the moment at which it can have it.
fn ideal(place: &Place, items: &Items, alone: f64) -> f64 {
    let each = items.total() as f64 / 1e9 / items.count() as f64;
    let upload = if place.upload > 0.0 { place.upload / place.up + place.round_trip } else { 0.0 };
    let delay = 4.0 * place.round_trip + upload + place.opening;
    let wire = (place.up / place.bytes.0).min(place.down / place.bytes.1) * each;
    let there = (place.cloud as f64 / place.slowness).min(wire);
    let here = place.local as f64;
    let together = (alone * here + there * delay) / (here + there);
    together.max(delay + each * place.slowness).min(alone)
}

impl Trial {
    /// CLOUD is a way to do it here: it comes to its end, and is worth its credits against LOCAL.
    pub fn cloud_counts(&self) -> bool {
        self.cloud.seconds.is_finite()
            && self.cloud.credits
                <= self.options.credits_per_second * (self.local.seconds - self.cloud.seconds).max(0.0)
    }

    /// CLOUD is sooner than LOCAL, and not worth its credits.
    pub fn too_dear(&self) -> bool {
        self.cloud.seconds < self.local.seconds && !self.cloud_counts()
    }

    /// Seconds of the better of LOCAL and CLOUD.
    pub fn better(&self) -> f64 {
        if self.cloud_counts() { self.local.seconds.min(self.cloud.seconds) } else { self.local.seconds }
    }

    /// Time over the better of LOCAL and CLOUD.
    pub fn ratio(&self) -> f64 {
        self.adaptive.seconds / self.better()
    }

    /// Credits over those of CLOUD, where that comes to its end and costs something.
    pub fn credits_ratio(&self) -> Option<f64> {
        let costs = self.cloud.seconds.is_finite() && self.cloud.credits > 0.0;
        costs.then(|| (self.adaptive.credits + self.adaptive.cancelled_credits) / self.cloud.credits)
    }

    /// Whether the service could make the map end sooner at all.
    pub fn helps(&self) -> bool {
        self.place.cloud > 0 && self.local.seconds - self.ideal > HELPS * self.local.seconds
    }

    /// Both can do a good part of it: neither is more than four times as slow as the other.
    pub fn both(&self) -> bool {
        let (local, cloud) = (self.local.seconds, self.cloud.seconds);
        self.cloud_counts() && self.helps() && local < 4.0 * cloud && cloud < 4.0 * local
    }
}
