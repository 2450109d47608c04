//! What the host decides by: the rule of `fastmap_backends::batch_sizing`, and the constants around it that stand in
//! `backends/src/local` and `src/map`. The experiments vary it.

use std::time::Duration;

use fastmap_backends::Targets;
use fastmap_backends::batch_sizing::Rule;

/// The host's constants. [`Settings::local`] are the engine's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The sizing rule.
    pub rule: Rule,
    /// What a batch should be.
    pub targets: Targets,
    /// Batches that a worker holds.
    pub depth: Depth,
    /// When work that waits is taken back from a worker; `None`: never.
    pub steal: Option<Steal>,
    /// Bytes of inputs, expected and undelivered results.
    pub read_ahead: usize,
    /// Answered segments that may wait behind one slow item.
    pub segments: Segments,
    /// How the mean item time follows what is seen.
    pub mean: Mean,
    /// Whether answers are looked at between two batches that are read, as the engine does (`src/map/mod.rs`), or only once the
    /// places are full.
    pub collects_between: bool,
}

/// Batches that a worker holds at a time, the running one included (`local/run.rs`): what waits is as long as the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depth {
    /// However long batches are.
    pub least: usize,
    /// However short they are.
    pub most: usize,
    /// The way of an answer to the host and of the next batch back.
    pub round_trip: Duration,
}

impl Depth {
    /// The same, however long batches are.
    pub fn fixed(depth: usize) -> Self {
        Depth { least: depth, most: depth, round_trip: Duration::ZERO }
    }

    /// For batches that take so long; before the first is answered, as long as the way.
    pub fn of(&self, batch: Option<Duration>) -> usize {
        let batch = batch.unwrap_or(self.round_trip).as_nanos().max(1);
        let waiting = self.round_trip.as_nanos().div_ceil(batch);
        usize::try_from(1 + waiting).unwrap_or(self.most).clamp(self.least, self.most)
    }
}

/// When work is moved (`local/steal.rs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steal {
    /// A worker that has answered nothing for so long is behind a slow item. Also the pause between two looks.
    pub stuck: Duration,
    /// Less expected work than this is not moved from a worker that answers.
    pub worth: Duration,
    /// For `stuck` after each batch that is read, only what has waited for so long is moved: the input feeds the idle.
    pub left_alone: Duration,
}

/// A bound on the segments that wait: the larger of two (`map/window.rs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segments {
    /// However few places there are.
    pub least: usize,
    /// So many times the places.
    pub of_slots: usize,
}

/// How the mean item time is taken (`map/engine/planner.rs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mean {
    /// Halfway to each batch's mean, however many items it had.
    Halving,
    /// Over about the last so many batches, each by its items.
    ByItems {
        /// What weighs as much as the newest batch, at most, of what was seen before, in batches.
        batches: f64,
    },
}

impl Settings {
    /// As the engine has them for workers of this machine.
    pub fn local() -> Self {
        Settings {
            rule: Rule::default(),
            targets: Targets {
                work: Duration::from_millis(20),
                least: Duration::from_micros(100),
                bytes: 256 * 1024,
            },
            depth: Depth { least: 2, most: 4, round_trip: Duration::from_micros(150) },
            steal: Some(Steal {
                stuck: Duration::from_millis(2),
                worth: Duration::from_micros(500),
                left_alone: Duration::from_millis(20),
            }),
            read_ahead: 64_000_000,
            segments: Segments { least: 4096, of_slots: 4 },
            mean: Mean::Halving,
            collects_between: true,
        }
    }

    /// The same for workers that are `round_trip` away, with so many times the work in a batch: what moves must be worth
    /// the way.
    pub fn far(self, times: f64, round_trip: Duration) -> Self {
        let work = self.targets.work.mul_f64(times);
        let least = self.targets.least.max(work / 10);
        let steal = self.steal.map(|steal| {
            let stuck = steal.stuck.max(round_trip * 2);
            // As slow as a whole batch: whoever runs one of that length is not behind anything.
            let slower = stuck.div_duration_f64(steal.stuck).max(times);
            Steal {
                stuck,
                worth: steal.worth.max(round_trip * 2),
                left_alone: steal.left_alone.mul_f64(slower),
            }
        });
        let depth = Depth { round_trip: self.depth.round_trip.max(round_trip), ..self.depth };
        Settings { targets: Targets { work, least, ..self.targets }, steal, depth, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_batches_wait_as_the_way_takes() {
        let depth = Settings::local().depth;
        let of = |micros| depth.of(Some(Duration::from_micros(micros)));
        assert_eq!((of(20_000), of(150), of(149), of(75), of(50), of(1)), (2, 2, 3, 3, 4, 4));
        assert_eq!((depth.of(None), Depth::fixed(3).of(None)), (2, 3));
    }
}
