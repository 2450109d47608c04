//! Batch in the hands of a pool: gathers the parts of its answer.

use std::time::{Duration, Instant};

use fastmap_backends::cloud::{Part, PartOutcome};
use fastmap_backends::{
    BatchId, ExitReason, FailureKind, ItemFailure, Results, Running, WorkerExit, WorkerLoss,
};
use tokio::sync::oneshot;

use crate::dispatch::{Answered, WorkOutcome};

/// Bytes that an answer may have more than its batch's limit for workers: what a jailed worker may go beyond that limit, and
/// the heads of the answer's parts.
pub(super) const BEYOND: u64 = 128 << 10;

/// A batch under way.
#[derive(Debug)]
pub(super) struct ActiveBatch {
    pub(super) batch: BatchId,
    pub(super) first: u64,
    pub(super) items: u32,
    pub(super) limit: Duration,
    pub(super) parts: Vec<Part>,
    pub(super) covered: u32,
    /// Bytes of results and failures so far, and with how many it has enough.
    pub(super) bytes: u64,
    pub(super) enough: u64,
    /// Bytes of the answer so far, and how many it may have.
    pub(super) whole: u64,
    pub(super) most: u64,
    /// Something of it did not fit.
    pub(super) over: bool,
    pub(super) cpu: Duration,
    /// When it was among the first that the workers have to do.
    pub(super) begun: Option<Instant>,
    /// How long ago that was, without the time in which this process stood still.
    pub(super) age: Duration,
    pub(super) cut: bool,
    /// Workers still have some of it that is abandoned.
    pub(super) given_back: bool,
    pub(super) reply: Option<oneshot::Sender<BatchResult>>,
}

/// The outcome on a batch, and the CPU time on its bill that the kernel has counted.
#[derive(Debug)]
pub(super) struct BatchResult {
    pub(super) outcome: WorkOutcome,
    pub(super) metered: Duration,
}

impl ActiveBatch {
    /// Takes a part, as far as an answer has room for it: what goes beyond is not kept, here or anywhere.
    pub(super) fn add(&mut self, mut part: Part) {
        // What was returned may stand before each.
        let mut extent = part.extent() + Part::HEAD;
        if extent > self.most.saturating_sub(self.whole)
            && let PartOutcome::Done(results) = &mut part.outcome
        {
            // Messages beside the results take no room from them.
            results.refused.clear();
            extent = part.extent() + Part::HEAD;
        }
        if extent > self.most.saturating_sub(self.whole) {
            let answered = self.parts.iter().any(|part| matches!(part.outcome, PartOutcome::Done(_)));
            part.outcome = if answered { PartOutcome::Returned } else { self.beyond(part.items, extent) };
            self.over = true;
            extent = part.extent() + Part::HEAD;
        }
        if let PartOutcome::Done(results) = &part.outcome {
            self.bytes += results.bytes();
        }
        self.whole += extent;
        self.parts.push(part);
    }

    /// What becomes of items whose answer alone has more bytes than an answer may have. One gets an error that says so; of several it is not
    /// known which it was: each is tried alone.
    fn beyond(&self, items: u32, bytes: u64) -> PartOutcome {
        let many = if items == 1 { "the item's result has" } else { "the items' results have" };
        let message = format!(
            "{many} {bytes} bytes with its frame, and the answer to its batch may have {}: return less, or use the policy \
             local",
            self.most
        );
        if items == 1 {
            let failures = vec![ItemFailure { offset: 0, kind: FailureKind::Serialize, message }];
            return PartOutcome::Done(Results { failures, ..Results::default() });
        }
        let death = WorkerExit {
            worker: "of the service".to_owned(),
            pid: 0,
            cause: ExitReason::Protocol(message),
            refused: None,
            stderr: Vec::new(),
        };
        PartOutcome::Lost(WorkerLoss { running: Running::Unknown, death })
    }

    /// What is not answered yet goes back.
    pub(super) fn give_back_the_rest(&mut self) {
        let mut known: Vec<(u32, u32)> = self.parts.iter().map(|part| (part.offset, part.items)).collect();
        known.sort_unstable();
        let mut offset = 0;
        for (next, items) in known.into_iter().chain([(self.items, 0)]) {
            if next > offset {
                self.parts.push(Part { offset, items: next - offset, outcome: PartOutcome::Returned });
            }
            offset = next + items;
        }
        self.covered = self.items;
        self.given_back = true;
    }

    /// Gives the answer. `Some`: the batch was abandoned, and this much stood on its bill.
    pub(super) fn complete(mut self) -> Option<Duration> {
        let parts = std::mem::take(&mut self.parts);
        // All that is known of an item that was cut is that it has used up its time.
        let cpu = if self.cut { self.cpu.max(self.limit) } else { self.cpu };
        let (cut, metered) = (self.cut, self.cpu);
        self.answer(WorkOutcome::Answered(Answered { parts, cpu, cut }), metered)
    }

    pub(super) fn answer(mut self, outcome: WorkOutcome, metered: Duration) -> Option<Duration> {
        let unheard = self.reply.take()?.send(BatchResult { outcome, metered }).err()?;
        Some(unheard.metered)
    }
}
