//! The result of a simulated map, and the bounds that it is compared with.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Nanos;
use crate::shapes::Items;
use crate::world::World;

/// A simulated map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Workers that there were.
    pub workers: usize,
    /// From the first `next()` to the last result.
    pub makespan: Nanos,
    /// Time of all items together.
    pub total: Nanos,
    /// Time of the longest item.
    pub longest: Nanos,
    /// Batches that were read.
    pub batches: u64,
    /// Messages from the host: openings, batches and parts of batches, recalls.
    pub sent: u64,
    /// Messages to the host: greetings, answers, parts given back.
    pub received: u64,
    /// Recalls among the sent messages.
    pub recalls: u64,
    /// Time in which the host was busy.
    pub host_time: Nanos,
    /// Most bytes that the map held: inputs, expected and undelivered results.
    pub peak_bytes: f64,
    /// Most answered segments that waited for their turn.
    pub peak_segments: usize,
    /// Most batches that were submitted and not answered.
    pub peak_batches: usize,
    /// Items that no worker ran.
    pub lost: u64,
    /// Items that were run or answered twice.
    pub doubled: u64,
}

impl Outcome {
    /// Item time over the time that the workers had: 1 if none of them ever waited.
    pub fn efficiency(&self) -> f64 {
        self.total as f64 / (self.workers as f64 * self.makespan as f64)
    }

    /// The shortest possible time over the time taken: no scheduler, not even one that knows all times, is through before
    /// the work is shared evenly, nor before the longest item has run in a worker that was ready after `start`.
    pub fn of_bound(&self, start: Nanos) -> f64 {
        let even = self.total as f64 / self.workers as f64;
        even.max((self.longest + start) as f64) / self.makespan as f64
    }

    /// The time of [`greedy`] over the time taken.
    pub fn of_greedy(&self, greedy: Nanos) -> f64 {
        greedy as f64 / self.makespan as f64
    }

    /// Share of its time in which the host was busy.
    pub fn host_load(&self) -> f64 {
        self.host_time as f64 / self.makespan as f64
    }
}

/// What a scheduler that does not know the times can do at best: a free worker takes the next item, at no cost and
/// with no way between. Workers come as they do in that world.
pub fn greedy(items: &Items, world: &World) -> Nanos {
    let mut free: BinaryHeap<Reverse<Nanos>> =
        (0..world.workers).map(|worker| Reverse(world.start.ready(worker))).collect();
    let mut end = 0;
    for item in 0..items.count() {
        let Some(mut first) = free.peek_mut() else { break };
        first.0 += items.between(item, item + 1);
        end = end.max(first.0);
    }
    end
}

/// Which items were run.
#[derive(Debug)]
pub(crate) struct Ledger {
    ran: Vec<bool>,
    left: u64,
    doubled: u64,
}

impl Ledger {
    pub(crate) fn new(count: u64) -> Self {
        Ledger { ran: vec![false; count as usize], left: count, doubled: 0 }
    }

    pub(crate) fn ran(&mut self, first: u64, end: u64) {
        for ran in &mut self.ran[first as usize..end as usize] {
            if std::mem::replace(ran, true) {
                self.doubled += 1;
            } else {
                self.left -= 1;
            }
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.left
    }

    pub(crate) fn doubled(&self) -> u64 {
        self.doubled
    }
}
