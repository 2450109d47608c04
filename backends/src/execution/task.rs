//! A worker's side of a batch: the typed loop claims items, and unclaimed items can be recalled. Implemented
//! by the typed entry of the root crate; driven by a worker's main loop or by an [`Executor`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::execution::claims::Claims;
use crate::model::batch::Items;
use crate::model::failure::{FailureKind, ItemFailure};
use crate::model::result_credit::{FAILURE, SPARE};
use crate::model::text::{MESSAGE, cut};

/// A function with its context, ready to run items. Lives in a worker, for one job.
pub trait Task {
    /// Runs and answers items of `work` until it returns no more. An item that panics is answered by
    /// [`Work::fail`]; the loop then continues with the next.
    fn run(&mut self, work: &mut Work<'_>);

    /// Bytes of each result, if all have the same size: such results can be written to their final place.
    fn result_stride(&self) -> Option<u32> {
        None
    }
}

/// A batch being run.
#[allow(missing_debug_implementations)]
pub struct Work<'a> {
    items: Items<'a>,
    /// Items given to the function so far; all but the last are answered.
    started: u32,
    claimed: u32,
    chunk: u32,
    claims: &'a Claims,
    /// Index of the running item, read by other threads.
    running: &'a AtomicU32,
    out: &'a mut Vec<u8>,
    /// Buffer for results of a fixed size, used instead of `out`, and the bytes written to it.
    slots: Option<&'a mut [u8]>,
    written: usize,
    /// Start of the results in `out`, and of the current item's result.
    start: usize,
    mark: usize,
    credit: usize,
    /// Maximum bytes of results and failures that the host accepts; `None`: no limit.
    answer_limit: Option<usize>,
    /// Start of the last item's result, in `out` and in the slots.
    last: (usize, usize),
    /// Whether a failure ends the batch.
    fail_fast: bool,
    failures: Vec<ItemFailure>,
    failure_bytes: usize,
    /// The slowest item so far, and the start time of the current one. Not measured if items are claimed in
    /// chunks: reading the clock for each item would cost more than the item.
    slowest: (u32, Duration),
    lap: Option<Instant>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        items: Items<'a>,
        count: u32,
        credit: u64,
        claims: &'a Claims,
        running: &'a AtomicU32,
        out: &'a mut Vec<u8>,
    ) -> Self {
        let start = out.len();
        Work {
            items,
            started: 0,
            claimed: 0,
            // Claiming costs an atomic operation on a shared word. A batch is at most ~20 ms long, so a
            // chunk, which can't be recalled, is a small part of a batch of many items.
            chunk: (count / 64).clamp(1, 64),
            claims,
            running,
            out,
            slots: None,
            written: 0,
            start,
            mark: start,
            credit: usize::try_from(credit).unwrap_or(usize::MAX),
            answer_limit: None,
            last: (start, 0),
            fail_fast: false,
            failures: Vec::new(),
            failure_bytes: 0,
            slowest: (0, Duration::ZERO),
            lap: None,
        }
    }

    /// Ends the batch after a failure, so that the failure is reported at once.
    pub(crate) fn failing_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// Limits the answer to about `limit` bytes. An item whose result far exceeds the limit fails, or, after
    /// other items, is returned to run in a batch of its own. `None`: no limit.
    pub(crate) fn held_to(mut self, limit: Option<u64>) -> Self {
        self.answer_limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        self
    }

    /// Writes results of a fixed size to `slots`, which must have room for all of them.
    pub(crate) fn into_slots(mut self, slots: Option<&'a mut [u8]>) -> Self {
        self.slots = slots;
        self
    }

    /// The next item's bytes. `None`: the batch is done, was recalled, its results have reached their credit,
    /// or a failure must be reported.
    #[inline]
    pub fn next_item(&mut self) -> Option<&'a [u8]> {
        self.mark = self.out.len();
        if self.used() >= self.credit && self.started > 0 {
            self.claims.close();
            return None;
        }
        if self.started == self.claimed {
            self.record_lap();
            self.claimed = self.claims.claim(self.chunk)?;
        }
        let item = self.items.next()?;
        self.running.store(self.started, Ordering::Relaxed);
        self.started += 1;
        self.last = (self.mark, self.written);
        Some(item)
    }

    /// Answers items of `stride` bytes with results of `result` bytes, to the batch's end or the next panic.
    /// Equivalent to [`Work::next_item`] and [`Work::slot`], with fewer checks per item (20 instructions
    /// instead of 53). `call` reads the item and writes its result to the slot; its error is the item's
    /// failure.
    ///
    /// Returns false, and does nothing, if results can't be written to slots.
    #[inline]
    pub fn each_plain(
        &mut self,
        stride: u32,
        result: u32,
        mut call: impl FnMut(&[u8], &mut [u8]) -> Result<(), String>,
    ) -> bool {
        let (stride, result) = (stride as usize, result as usize);
        if self.slots.is_none() {
            return false;
        }
        while let Some(count) = self.run_length(result) {
            let (first, running) = (self.started, self.running);
            let items = self.items.rest().chunks_exact(stride).take(count);
            let mut run =
                ItemRun { slots: self.slots.take(), work: self, stride, result, started: 0, answered: 0 };
            let ItemRun { slots, work, started, answered, .. } = &mut run;
            let room =
                slots.as_deref_mut().and_then(|slots| slots.get_mut(work.written..)).unwrap_or_default();
            let mut failure = None;
            for (item, slot) in items.zip(room.chunks_exact_mut(result)) {
                running.store(first + *started, Ordering::Relaxed);
                *started += 1;
                if let Err(message) = call(item, slot) {
                    failure = Some(message);
                    break;
                }
                *answered += 1;
            }
            let no_items = *started == 0;
            drop(run);
            match failure {
                Some(message) => self.fail(FailureKind::Serialize, message),
                // The batch has fewer items than announced.
                None if no_items => break,
                None => {}
            }
        }
        true
    }

    /// Number of items that may run now, limited by claims and by the credit for results of this size.
    /// `None`: as [`Work::next_item`].
    fn run_length(&mut self, result: usize) -> Option<usize> {
        let used = self.used();
        if used >= self.credit && self.started > 0 {
            self.claims.close();
            return None;
        }
        if self.started == self.claimed {
            self.record_lap();
            self.claimed = self.claims.claim(self.chunk)?;
        }
        let by_credit = self.credit.saturating_sub(used).div_ceil(result).max(1);
        Some(by_credit.min((self.claimed - self.started) as usize))
    }

    /// Bytes of results and failures so far.
    #[inline]
    fn used(&self) -> usize {
        self.out.len() - self.start + self.written + self.failure_bytes
    }

    fn record_lap(&mut self) {
        if self.chunk > 1 {
            return;
        }
        let now = Instant::now();
        if let Some(started) = self.lap.replace(now)
            && now - started > self.slowest.1
        {
            self.slowest = (self.started.saturating_sub(1), now - started);
        }
    }

    /// Buffer to which the current item's result is appended, in the layout that the host reads.
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Slot for the current item's fixed-size result; `None`: use [`Work::out`]. Called once, with a result ready.
    #[inline]
    pub fn slot(&mut self, stride: u32) -> Option<&mut [u8]> {
        let slot = self.slots.as_mut()?.get_mut(self.written..self.written + stride as usize)?;
        self.written += stride as usize;
        Some(slot)
    }

    /// Answers the current item with a failure, and discards what was written of its result.
    pub fn fail(&mut self, kind: FailureKind, message: String) {
        self.out.truncate(self.mark);
        // Add the denials after cutting the message: they say what to do.
        let message = crate::execution::denials::blame(cut(message, MESSAGE), self.started - 1);
        self.failure_bytes += message.len() + if self.answer_limit.is_some() { FAILURE as usize } else { 0 };
        self.failures.push(ItemFailure { offset: self.started - 1, kind, message });
        if self.fail_fast {
            self.credit = 0;
        }
    }

    /// Returns whether the sandbox has denied a call to the current item. If its result is an error of its
    /// own, call [`Work::answered_error`].
    #[inline]
    pub fn was_refused(&self) -> bool {
        crate::execution::denials::was_refused(self.started - 1)
    }

    /// Records that the current item's result is an error of the function's own.
    pub fn answered_error(&self) {
        crate::execution::denials::answered_error(self.started - 1);
    }

    /// Ends the batch and returns its outcome.
    pub(crate) fn finish(mut self) -> Finished {
        // If the batch ended without asking for another item, the last item's time is not recorded yet.
        self.record_lap();
        if let Some(limit) = self.answer_limit
            && self.started > 0
            && self.used() > limit.saturating_add(SPARE as usize)
        {
            self.drop_last(limit);
        }
        Finished {
            answered: self.started,
            failures: self.failures,
            written: self.written,
            slowest: self.slowest,
        }
    }
}

impl Work<'_> {
    /// Discards the last item's result, which has exceeded the limit.
    fn drop_last(&mut self, limit: usize) {
        let (out, written) = self.last;
        let bytes = (self.out.len() - out) + (self.written - written);
        self.out.truncate(out);
        self.written = written;
        if self.started > 1 {
            self.started -= 1;
            return;
        }
        let message = format!(
            "its result has {bytes} bytes, and the answer to its batch may have {limit}: return less, or use the policy \
             local"
        );
        self.failures.push(ItemFailure { offset: 0, kind: FailureKind::Serialize, message });
    }
}

/// Run of consecutive items. When dropped, also by a panic of an item, it updates the work's progress.
struct ItemRun<'w, 'a> {
    work: &'w mut Work<'a>,
    slots: Option<&'a mut [u8]>,
    stride: usize,
    result: usize,
    /// Items given to the function, and those that have a result.
    started: u32,
    answered: u32,
}

impl Drop for ItemRun<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.work.slots = self.slots.take();
        self.work.started += self.started;
        self.work.items.skip_bytes(self.started as usize * self.stride);
        self.work.written += self.answered as usize * self.result;
        if self.answered > 0 {
            self.work.last = (self.work.out.len(), self.work.written - self.result);
        }
    }
}

/// Outcome of a batch.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Number of answered items.
    pub(crate) answered: u32,
    /// The failed ones.
    pub(crate) failures: Vec<ItemFailure>,
    /// Bytes of results in the slots.
    pub(crate) written: usize,
    /// The slowest item and its time; zero if not measured.
    pub(crate) slowest: (u32, Duration),
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Runs `each_plain` on one-byte items with results of two bytes.
    fn run_plain(
        items: &[u8],
        credit: u64,
        call: impl Fn(u8) -> Result<u16, String>,
    ) -> (Finished, Vec<u16>) {
        let (claims, running) = (Claims::new(items.len() as u32), AtomicU32::new(0));
        let (mut out, mut slots) = (Vec::new(), vec![0; 2 * items.len()]);
        let layout = Items::new(items, Some(1));
        let work = Work::new(layout, items.len() as u32, credit, &claims, &running, &mut out);
        let mut work = work.into_slots(Some(&mut slots));
        loop {
            let run = catch_unwind(AssertUnwindSafe(|| {
                work.each_plain(1, 2, |item, slot| {
                    slot.copy_from_slice(&call(item[0])?.to_le_bytes());
                    Ok(())
                })
            }));
            match run {
                Ok(done) => break assert!(done),
                Err(_) => work.fail(FailureKind::Panic, "panic".to_owned()),
            }
        }
        let finished = work.finish();
        let results =
            slots[..finished.written].as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
        let results = results.collect();
        (finished, results)
    }

    #[test]
    fn fixed_size_items_are_answered_in_order_without_gaps() {
        let items: Vec<u8> = (0..200).collect();
        let (finished, results) = run_plain(&items, u64::MAX, |item| match item {
            3 => panic!("the function's"),
            5 | 6 | 199 => Err("unreadable".to_owned()),
            item => Ok(300 + u16::from(item)),
        });
        let failed: Vec<u32> = finished.failures.iter().map(|failure| failure.offset).collect();
        assert_eq!((finished.answered, failed), (200, vec![3, 5, 6, 199]));
        let good = (0..199).filter(|item| ![3, 5, 6].contains(item)).map(|item| 300 + item);
        assert_eq!(results, good.collect::<Vec<u16>>());
    }

    #[test]
    fn fixed_size_results_respect_the_credit_after_the_first() {
        for (credit, answered) in [(0, 1), (1, 1), (2, 1), (3, 2), (8, 4), (1000, 10)] {
            let (finished, results) = run_plain(&[7; 10], credit, |item| Ok(u16::from(item)));
            assert_eq!((finished.answered, results.len()), (answered, answered as usize), "{credit}");
        }
    }

    /// Runs items with results of these sizes, under a strict host.
    fn strict(sizes: &[usize], credit: u64) -> (u32, usize, Vec<String>) {
        let items = vec![0; sizes.len()];
        let (claims, running) = (Claims::new(sizes.len() as u32), AtomicU32::new(0));
        let mut out = Vec::new();
        let layout = Items::new(&items, Some(1));
        let work = Work::new(layout, sizes.len() as u32, credit, &claims, &running, &mut out);
        let mut work = work.held_to(Some(credit));
        let mut sizes = sizes.iter();
        while work.next_item().is_some() {
            let size = sizes.next().expect("as many as there are items");
            work.out().extend(std::iter::repeat_n(7, *size));
        }
        let Finished { answered, failures, .. } = work.finish();
        (answered, out.len(), failures.into_iter().map(|failure| failure.message).collect())
    }

    #[test]
    fn result_far_beyond_the_limit_fails_alone_or_is_returned() {
        const SPARE: usize = super::SPARE as usize;
        assert_eq!(strict(&[10, 10], 15), (2, 20, vec![]));
        assert_eq!(strict(&[10, SPARE, 10], 15), (2, SPARE + 10, vec![]), "a little beyond is nothing");
        assert_eq!(strict(&[10, SPARE + 6, 10], 15), (1, 10, vec![]));
        let (answered, bytes, failures) = strict(&[SPARE + 16, 10], 15);
        assert_eq!((answered, bytes, failures.len()), (1, 0, 1));
        assert!(
            failures[0].contains("69648 bytes") && failures[0].contains("may have 15: return less"),
            "{failures:?}"
        );
    }

    #[test]
    fn claims_and_recalls_never_overlap() {
        let claims = Claims::new(10);
        assert_eq!(claims.claim(4), Some(4));
        assert_eq!(claims.recall(true), Some(7));
        assert_eq!(claims.claim(100), Some(7));
        assert_eq!(claims.claim(1), None);
        assert_eq!(claims.recall(false), None);
        let unbegun = Claims::new(5);
        assert_eq!(unbegun.recall(false), Some(1));
        assert_eq!(unbegun.recall(false), None);
    }

    #[test]
    fn each_item_is_either_claimed_or_recalled_when_threads_race() {
        for _ in 0..200 {
            let claims = Claims::new(1000);
            let (mut end, mut taken) = (0, 1000);
            std::thread::scope(|scope| {
                let recall = scope.spawn(|| {
                    let mut from = 1000;
                    while let Some(first) = claims.recall(true) {
                        from = first;
                    }
                    from
                });
                while let Some(to) = claims.claim(1) {
                    end = to;
                }
                taken = recall.join().expect("the other thread ends");
            });
            assert_eq!(end, taken);
        }
    }
}
