//! Size of the next batch: a pure function of measurements. Called by the host's adapter before it pulls
//! items; the same rule serves every backend with its own targets.

use std::time::Duration;

/// A backend's targets for the size of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// Work in one batch: long compared to the cost of a message, short compared to the end of the map.
    pub work: Duration,
    /// Minimum work that is worth a message: near the end of a map, batches shrink down to this.
    pub least: Duration,
    /// Bytes of one batch, the larger of inputs and results; decisive if the work is so cheap that bytes
    /// dominate.
    pub bytes: usize,
}

/// Measurements available before a batch is pulled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Workers that share the remaining items.
    pub workers: usize,
    /// Items not yet pulled, if the input reports its length.
    pub remaining: Option<u64>,
    /// Mean time of one item in a worker.
    pub item_time: Option<Duration>,
    /// Mean bytes of one item, the larger of input and result.
    pub item_bytes: f64,
    /// Items of the previous batch; 0 before the first.
    pub last: u32,
}

/// The rule's constants. [`batch_items`] uses the default; the simulator tries others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Parts of each worker's share of the rest: one part is the cost of an unbalanced end.
    pub parts: u64,
    /// Maximum growth from one batch to the next: measurements of a few items may not hold for many.
    pub growth: u32,
}

impl Default for Rule {
    /// Chosen by `simulator/` (its README has the figures). 8 parts do as well for few workers and less well
    /// for 10,000, where each batch costs the single host.
    fn default() -> Self {
        Rule { parts: 4, growth: 4 }
    }
}

impl Rule {
    /// Number of items of the next batch, at least 1.
    ///
    /// The work target bounds slow items, and the byte target large ones. Near the end, the rest of the map
    /// bounds all batches, down to what is worth a message. Before any measurement, a batch is one item.
    pub fn batch_items(&self, observed: &Observed, targets: &Targets) -> u32 {
        let Some(item_time) = observed.item_time else { return 1 };
        let item_time = item_time.as_secs_f64().max(1e-10);
        let by_time = targets.work.as_secs_f64() / item_time;
        let by_bytes = targets.bytes as f64 / observed.item_bytes.max(0.1);
        let mut items = by_time.min(by_bytes) as u32;
        if let Some(remaining) = observed.remaining {
            let share = remaining / (self.parts * observed.workers.max(1) as u64).max(1);
            let least = (targets.least.as_secs_f64() / item_time) as u32;
            items = items.min(u32::try_from(share).unwrap_or(u32::MAX).max(least));
        }
        items.min(observed.last.max(1).saturating_mul(self.growth)).max(1)
    }
}

/// Number of items of the next batch by the default [`Rule`].
pub fn batch_items(observed: &Observed, targets: &Targets) -> u32 {
    Rule::default().batch_items(observed, targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets =
        Targets { work: Duration::from_millis(20), least: Duration::from_micros(50), bytes: 128 * 1024 };

    fn observed() -> Observed {
        Observed {
            workers: 2,
            remaining: None,
            item_time: Some(Duration::from_millis(1)),
            item_bytes: 8.0,
            last: 1000,
        }
    }

    #[test]
    fn the_first_batch_is_one_item() {
        assert_eq!(batch_items(&Observed { item_time: None, ..observed() }, &TARGETS), 1);
    }

    #[test]
    fn slow_items_fill_the_work_target() {
        assert_eq!(batch_items(&observed(), &TARGETS), 20);
        let slow = Observed { item_time: Some(Duration::from_secs(1)), ..observed() };
        assert_eq!(batch_items(&slow, &TARGETS), 1);
    }

    #[test]
    fn cheap_items_fill_the_byte_target() {
        let cheap = Observed {
            item_time: Some(Duration::from_nanos(2)),
            last: 1 << 20,
            remaining: None,
            ..observed()
        };
        assert_eq!(batch_items(&cheap, &TARGETS), 16 * 1024);
        assert_eq!(batch_items(&Observed { item_bytes: 1e6, ..cheap }, &TARGETS), 1);
    }

    #[test]
    fn items_without_time_and_bytes_give_a_size() {
        let nothing =
            Observed { item_time: Some(Duration::ZERO), item_bytes: 0.0, last: u32::MAX, ..observed() };
        assert!(batch_items(&nothing, &TARGETS) >= 1);
    }

    #[test]
    fn growth_is_bounded_by_four() {
        assert_eq!(batch_items(&Observed { last: 1, ..observed() }, &TARGETS), 4);
    }

    #[test]
    fn batches_shrink_toward_a_known_end() {
        let sizes: Vec<u32> = [1000, 100, 16, 8, 3, 0]
            .into_iter()
            .map(|remaining| batch_items(&Observed { remaining: Some(remaining), ..observed() }, &TARGETS))
            .collect();
        assert_eq!(sizes, [20, 12, 2, 1, 1, 1]);
    }

    #[test]
    fn no_batch_shrinks_below_what_is_worth_a_message() {
        let cheap = Observed { item_time: Some(Duration::from_micros(1)), ..observed() };
        let sizes: Vec<u32> = [1000, 100, 10, 1]
            .into_iter()
            .map(|remaining| batch_items(&Observed { remaining: Some(remaining), ..cheap }, &TARGETS))
            .collect();
        assert_eq!(sizes, [125, 50, 50, 50]);
    }
}
