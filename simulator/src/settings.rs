//! What the host decides by: the rule of `fastmap_backends::sizing`, and the constants around it that stand in
//! `backends/src/local` and `src/map`. The experiments vary it.

use std::time::Duration;

use fastmap_backends::Targets;
use fastmap_backends::sizing::Rule;

/// The host's constants.
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
    /// Whether answers are looked at between two batches that are read, or only once the places are full.
    pub collects_between: bool,
}

/// Batches that a worker holds at a time, the running one included (`local/run.rs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depth {
    /// As a rule.
    pub usual: usize,
    /// While batches take less than `below`.
    pub short: usize,
    /// See `short`.
    pub below: Duration,
}

impl Depth {
    /// The same, however long batches are.
    pub fn fixed(depth: usize) -> Self {
        Depth { usual: depth, short: depth, below: Duration::ZERO }
    }
}

/// When work is moved (`local/steal.rs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steal {
    /// A worker that has answered nothing for so long is behind a slow item. Also the pause between two looks.
    pub stuck: Duration,
    /// Less expected work than this is not moved from a worker that answers.
    pub worth: Duration,
    /// Nothing is moved until so long after a batch was read: while the input feeds the idle, moving only costs.
    pub quiet: Duration,
}

/// A bound on the segments that wait: the larger of two (`map/window.rs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segments {
    /// However few places there are.
    pub least: usize,
    /// So many times the places.
    pub of_slots: usize,
}

/// How the mean item time is taken (`map/drive.rs`).
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
    /// As the engine was when the simulator was written, for workers of this machine.
    pub fn today() -> Self {
        Settings {
            rule: Rule::default(),
            targets: Targets {
                work: Duration::from_millis(20),
                least: Duration::from_micros(100),
                bytes: 128 * 1024,
            },
            depth: Depth { usual: 2, short: 4, below: Duration::from_millis(5) },
            steal: Some(Steal {
                stuck: Duration::from_millis(2),
                worth: Duration::from_micros(500),
                quiet: Duration::ZERO,
            }),
            read_ahead: 64_000_000,
            segments: Segments { least: 4096, of_slots: 0 },
            mean: Mean::Halving,
            collects_between: false,
        }
    }

    /// As the simulator would have it, for workers of this machine. What differs from today beside the rule stands in
    /// `src/map/mod.rs` (`collects_between`), `src/map/window.rs` (`segments`) and `local/steal.rs` (`quiet`).
    pub fn proposed() -> Self {
        let today = Settings::today();
        Settings {
            rule: Rule::default(),
            steal: today.steal.map(|steal| Steal { quiet: steal.stuck, ..steal }),
            segments: Segments { of_slots: 4, ..today.segments },
            collects_between: true,
            ..today
        }
    }

    /// The same for workers that are `round_trip` away, with so many times the work in a batch: what moves must be worth
    /// the way.
    pub fn far(self, times: f64, round_trip: Duration) -> Self {
        let work = self.targets.work.mul_f64(times);
        let least = self.targets.least.max(work / 10);
        let steal = self.steal.map(|steal| Steal {
            stuck: steal.stuck.max(round_trip * 2),
            worth: steal.worth.max(round_trip * 2),
            quiet: if steal.quiet.is_zero() { steal.quiet } else { steal.quiet.max(round_trip * 2) },
        });
        Settings { targets: Targets { work, least, ..self.targets }, steal, ..self }
    }
}
