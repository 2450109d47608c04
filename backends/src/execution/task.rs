//! A worker's side of a batch: the typed loop claims items, and what it has not claimed can be taken back.
//! Implemented by the typed entry of the root crate; driven by a worker's main loop or by an [`Executor`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::execution::claims::Claims;
use crate::model::batch::Items;
use crate::model::failure::{FailureKind, ItemFailure};
use crate::model::result_credit::{FAILURE, SPARE};
use crate::model::text::{MESSAGE, cut};

/// A function with its context, ready to run items. Lives in a worker, for one job.
pub trait Task {
    /// Runs items of `work` until it gives no more, and answers each.
    /// An item that panics is answered by [`Work::fail`]; the loop then goes on with the next.
    fn run(&mut self, work: &mut Work<'_>);

    /// Bytes of each result, where all have the same: such results can be written where they will be read.
    fn result_stride(&self) -> Option<u32> {
        None
    }
}

/// A batch under way.
#[allow(missing_debug_implementations)]
pub struct Work<'a> {
    items: Items<'a>,
    /// Items given to the function so far; all but the last are answered.
    begun: u32,
    claimed: u32,
    chunk: u32,
    claims: &'a Claims,
    /// Where others can read which item runs.
    running: &'a AtomicU32,
    out: &'a mut Vec<u8>,
    /// Where results of a fixed size go instead, and how many bytes of it are written.
    slots: Option<&'a mut [u8]>,
    written: usize,
    /// Where results begin in `out`, and where the current item's result does.
    start: usize,
    mark: usize,
    credit: usize,
    /// Bytes of results and failures beyond which the host takes no answer; `None`: it takes any.
    most: Option<usize>,
    /// Where the last item's result begins, in `out` and in the slots.
    last: (usize, usize),
    /// A failure ends the batch.
    fail_fast: bool,
    failures: Vec<ItemFailure>,
    failure_bytes: usize,
    /// The item that has taken longest so far, and when the current one began. Not where items are claimed by the chunk:
    /// a clock for each would cost more than they do.
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
            begun: 0,
            claimed: 0,
            // Claiming costs an atomic operation on a shared word; a batch is at most ~20 ms long, so that what
            // can't be taken back of a batch of many items is a small part of that.
            chunk: (count / 64).clamp(1, 64),
            claims,
            running,
            out,
            slots: None,
            written: 0,
            start,
            mark: start,
            credit: usize::try_from(credit).unwrap_or(usize::MAX),
            most: None,
            last: (start, 0),
            fail_fast: false,
            failures: Vec::new(),
            failure_bytes: 0,
            slowest: (0, Duration::ZERO),
            lap: None,
        }
    }

    /// A failure is to be told at once: behind it the batch gives no more items.
    pub(crate) fn failing_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// An item whose result leads far beyond `most` bytes has none: it fails, or, after others, is given back, to be run in
    /// a batch of its own. `None`: there is no limit.
    pub(crate) fn held_to(mut self, most: Option<u64>) -> Self {
        self.most = most.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        self
    }

    /// Results of a fixed size go to `slots`, which has room for all of them.
    pub(crate) fn into_slots(mut self, slots: Option<&'a mut [u8]>) -> Self {
        self.slots = slots;
        self
    }

    /// The next item's bytes. `None`: the batch is done, was taken back, its results have reached their credit, or a
    /// failure must be reported.
    #[inline]
    pub fn next_item(&mut self) -> Option<&'a [u8]> {
        self.mark = self.out.len();
        if self.used() >= self.credit && self.begun > 0 {
            self.claims.close();
            return None;
        }
        if self.begun == self.claimed {
            self.look_at_clock();
            self.claimed = self.claims.claim(self.chunk)?;
        }
        let item = self.items.next()?;
        self.running.store(self.begun, Ordering::Relaxed);
        self.begun += 1;
        self.last = (self.mark, self.written);
        Some(item)
    }

    /// Answers items of `stride` bytes by results of `result` bytes, to the batch's end or the next panic: what
    /// [`Work::next_item`] and [`Work::slot`] do, without what needs no look at each item (53 instructions are 20).
    /// `call` reads the item and writes its result over the slot; its error is the item's failure.
    ///
    /// False, and nothing is done: results can't be written to their place here.
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
        while let Some(most) = self.stretch(result) {
            let (first, running) = (self.begun, self.running);
            let items = self.items.rest().chunks_exact(stride).take(most);
            let mut run =
                Stretch { slots: self.slots.take(), work: self, stride, result, begun: 0, answered: 0 };
            let Stretch { slots, work, begun, answered, .. } = &mut run;
            let room =
                slots.as_deref_mut().and_then(|slots| slots.get_mut(work.written..)).unwrap_or_default();
            let mut failure = None;
            for (item, slot) in items.zip(room.chunks_exact_mut(result)) {
                running.store(first + *begun, Ordering::Relaxed);
                *begun += 1;
                if let Err(message) = call(item, slot) {
                    failure = Some(message);
                    break;
                }
                *answered += 1;
            }
            let none = *begun == 0;
            drop(run);
            match failure {
                Some(message) => self.fail(FailureKind::Serialize, message),
                // The items are fewer than were announced.
                None if none => break,
                None => {}
            }
        }
        true
    }

    /// How many items may run now, by claims and by credit for results of so many bytes. `None`: as
    /// [`Work::next_item`].
    fn stretch(&mut self, result: usize) -> Option<usize> {
        let used = self.used();
        if used >= self.credit && self.begun > 0 {
            self.claims.close();
            return None;
        }
        if self.begun == self.claimed {
            self.look_at_clock();
            self.claimed = self.claims.claim(self.chunk)?;
        }
        let by_credit = self.credit.saturating_sub(used).div_ceil(result).max(1);
        Some(by_credit.min((self.claimed - self.begun) as usize))
    }

    /// Bytes of results and failures so far.
    #[inline]
    fn used(&self) -> usize {
        self.out.len() - self.start + self.written + self.failure_bytes
    }

    fn look_at_clock(&mut self) {
        if self.chunk > 1 {
            return;
        }
        let now = Instant::now();
        if let Some(begun) = self.lap.replace(now)
            && now - begun > self.slowest.1
        {
            self.slowest = (self.begun.saturating_sub(1), now - begun);
        }
    }

    /// Where the result of the current item goes: appended, laid out as the host will read it.
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Where the result of the current item goes if it has so many bytes, as all have; `None`: to [`Work::out`]. To be
    /// asked once, when the result is there.
    #[inline]
    pub fn slot(&mut self, stride: u32) -> Option<&mut [u8]> {
        let slot = self.slots.as_mut()?.get_mut(self.written..self.written + stride as usize)?;
        self.written += stride as usize;
        Some(slot)
    }

    /// Answers the current item by a failure. What was written of its result is taken away.
    pub fn fail(&mut self, kind: FailureKind, message: String) {
        self.out.truncate(self.mark);
        // Behind the cut: it says what to do.
        let message = crate::execution::denials::blame(cut(message, MESSAGE), self.begun - 1);
        self.failure_bytes += message.len() + if self.most.is_some() { FAILURE as usize } else { 0 };
        self.failures.push(ItemFailure { offset: self.begun - 1, kind, message });
        if self.fail_fast {
            self.credit = 0;
        }
    }

    /// Whether the sandbox has refused anything to the current item. Its result, if that is an error of its own, is then
    /// reported by [`Work::answered_error`].
    #[inline]
    pub fn was_refused(&self) -> bool {
        crate::execution::denials::was_refused(self.begun - 1)
    }

    /// The current item's result is an error of the function's own.
    pub fn answered_error(&self) {
        crate::execution::denials::answered_error(self.begun - 1);
    }

    /// What came of it.
    pub(crate) fn finish(mut self) -> Finished {
        // Where it ended before it asked for more, the last item's time is not taken yet.
        self.look_at_clock();
        if let Some(most) = self.most
            && self.begun > 0
            && self.used() > most.saturating_add(SPARE as usize)
        {
            self.drop_last(most);
        }
        Finished {
            answered: self.begun,
            failures: self.failures,
            written: self.written,
            slowest: self.slowest,
        }
    }
}

impl Work<'_> {
    /// Takes the last item's result away, which has led beyond the limit.
    fn drop_last(&mut self, most: usize) {
        let (out, written) = self.last;
        let bytes = (self.out.len() - out) + (self.written - written);
        self.out.truncate(out);
        self.written = written;
        if self.begun > 1 {
            self.begun -= 1;
            return;
        }
        let message = format!(
            "its result has {bytes} bytes, and the answer to its batch may have {most}: return less, or use the policy \
             local"
        );
        self.failures.push(ItemFailure { offset: 0, kind: FailureKind::Serialize, message });
    }
}

/// Items that run one after the other. Dropped, also by a panic of one, it tells the work how far they came.
struct Stretch<'w, 'a> {
    work: &'w mut Work<'a>,
    slots: Option<&'a mut [u8]>,
    stride: usize,
    result: usize,
    /// Items given to the function, and those of them that have a result.
    begun: u32,
    answered: u32,
}

impl Drop for Stretch<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.work.slots = self.slots.take();
        self.work.begun += self.begun;
        self.work.items.skip_bytes(self.begun as usize * self.stride);
        self.work.written += self.answered as usize * self.result;
        if self.answered > 0 {
            self.work.last = (self.work.out.len(), self.work.written - self.result);
        }
    }
}

/// What came of a batch.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How many items were answered.
    pub(crate) answered: u32,
    /// Those that failed.
    pub(crate) failures: Vec<ItemFailure>,
    /// Bytes of results in the slots.
    pub(crate) written: usize,
    /// The slowest item and its time; no time where it is not known.
    pub(crate) slowest: (u32, Duration),
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// What `each_plain` makes of one byte for each of `items`, whose results are twice as wide.
    fn plain(items: &[u8], credit: u64, call: impl Fn(u8) -> Result<u16, String>) -> (Finished, Vec<u16>) {
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
    fn plain_items_are_answered_in_their_order_and_failures_leave_no_gap() {
        let items: Vec<u8> = (0..200).collect();
        let (finished, results) = plain(&items, u64::MAX, |item| match item {
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
    fn plain_results_keep_to_their_credit_and_one_is_always_given() {
        for (credit, answered) in [(0, 1), (1, 1), (2, 1), (3, 2), (8, 4), (1000, 10)] {
            let (finished, results) = plain(&[7; 10], credit, |item| Ok(u16::from(item)));
            assert_eq!((finished.answered, results.len()), (answered, answered as usize), "{credit}");
        }
    }

    /// What comes of items whose results have these sizes, under a strict host.
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
    fn a_result_far_beyond_the_credit_fails_alone_and_goes_back_behind_others() {
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
