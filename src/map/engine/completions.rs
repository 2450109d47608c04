//! Completions of a run: how a map waits for them, and what each of them changes.

use std::time::{Duration, Instant};

use fastmap_backends::split_after_crash::{Piece, after_loss};
use fastmap_backends::{Batch, Completion, Outcome, Results, Running};

use crate::error::Error;
use crate::feed::Level;
use crate::map::attempts::Sorted;
use crate::map::engine::state::MapEngine;
use crate::map::results::ResultChunk;

/// Longest wait for a completion before the progress bar is moved.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How often a map that waits for results checks whether its feed has an item, if there is a place for one.
const LOOK_AT_FEED: Duration = Duration::from_millis(5);

impl MapEngine {
    /// Whether the run has a completion to give: batches are in flight, or it has refused one and reports the
    /// reason when polled.
    pub(crate) fn awaits_completions(&self) -> bool {
        self.in_flight > 0 || !self.resubmit_queue.is_empty()
    }

    /// Takes completions that are there, without waiting.
    ///
    /// # Errors
    /// What ends the map: its run, or one of its limits.
    pub(crate) fn collect(&mut self) -> Result<(), Error> {
        while self.awaits_completions() && self.handle_next(Instant::now())? {}
        // After all completions that have arrived: of several failures the earliest item's is reported, and a
        // map that they answer completely is not late.
        self.limits.check(self.is_answered())
    }

    /// Waits for a completion. `Ok(false)`: no batch is outstanding.
    pub(crate) fn wait(&mut self) -> Result<bool, Error> {
        if !self.awaits_completions() {
            return Ok(false);
        }
        self.wait_for(LOOK_UP)?;
        Ok(true)
    }

    /// Waits for a completion, up to `most`. Returns how long that took.
    pub(crate) fn wait_for(&mut self, most: Duration) -> Result<Duration, Error> {
        let begun = Instant::now();
        let taken = self.handle_next(self.limits.until(begun + most));
        let waited = begun.elapsed();
        // Before an error returns: the report also counts a wait that ended in one.
        self.report.waited(waited);
        taken?;
        self.tick();
        self.collect()?;
        Ok(waited)
    }

    /// Waits for a completion, or for an item of the feed.
    pub(crate) fn wait_for_run_or_feed(&mut self, feed: Option<&Level>) -> Result<(), Error> {
        if self.awaits_completions() {
            // No call waits for a run and a feed at once. An item of the feed can be sent only to a free
            // place, so that without one the wait need not be short.
            let most = if self.can_submit() { LOOK_AT_FEED } else { LOOK_UP };
            return self.wait_for(most).map(drop);
        }
        let Some(feed) = feed else { return Ok(()) };
        // The feed is empty and the consumer has each result: none is left that could lead to an item.
        if feed.is_work_list() && self.is_drained() {
            self.end_input();
            return self.checkpoint.input_ended(self.pulled + self.checkpoint.compared());
        }
        // Bounded, because progress and the deadline have to be looked at while the feed stays empty.
        feed.wait(self.limits.until(Instant::now() + LOOK_UP));
        self.tick();
        self.collect()
    }

    /// Reports progress, if that is due.
    pub(crate) fn tick(&mut self) {
        if self.report.is_due() {
            if let Some(run) = self.mode.run() {
                self.report.spent(run.cost_so_far());
            }
            self.report.tick(self.current.read());
        }
    }

    fn handle_next(&mut self, deadline: Instant) -> Result<bool, Error> {
        let Some(run) = self.mode.run() else { return Ok(false) };
        // A run gives its error after all completions that it has: the error that returns here hides none.
        let Some(completion) = run.poll(deadline).map_err(Error::of_backend)? else { return Ok(false) };
        let Completion { batch, first, items, outcome } = completion;
        // The charge of these items is released below, so that the budget may have room.
        self.paused_by_budget = false;
        // All three before the outcome is handled: a batch that is sent again below is charged, counted and
        // kept anew.
        let more = self.reorder_buffer.discharge(batch, items);
        let whole = self.attempts.on_returned(batch, items);
        self.in_flight = self.in_flight.saturating_sub(u64::from(items));
        match outcome {
            Outcome::Done(results) => {
                self.report.answered(batch, more, first, items, &results);
                self.answered(first, items, results, whole.as_ref())?;
            }
            Outcome::Returned(rest) => {
                self.resubmit_queue.insert(rest.first(), rest);
            }
            Outcome::Lost(lost, loss) => {
                self.report.lost(&lost, &loss);
                // A batch that is halved is progress: it ends with the guilty item alone, which is answered.
                if lost.items() == 1 || loss.running != Running::Unknown {
                    self.deaths.died(loss.death.clone());
                }
                for piece in after_loss(lost.items(), lost.attempt(), self.attempts.retries, &loss) {
                    match piece {
                        Piece::Again(range, attempt) => {
                            let id = self.next_id();
                            let piece = lost.piece(id, range.start, range.end, attempt);
                            self.resubmit_queue.insert(piece.first(), piece);
                        }
                        Piece::Answer(item, tries) => {
                            let index = lost.first() + u64::from(item);
                            // Not recorded: the next map with this checkpoint tries the item again.
                            self.checkpoint.settled(index, 1);
                            let error = Error::of_death(loss.death.clone()).tried(tries);
                            self.deliver(ResultChunk::failed(index, error));
                            self.deaths.settled(loss.death.clone());
                        }
                    }
                }
                // After the pieces are queued, which shows whether the death has left anything to do.
                self.check_deaths()?;
            }
        }
        self.submit_ready();
        Ok(true)
    }

    fn answered(
        &mut self,
        first: u64,
        items: u32,
        results: Results,
        whole: Option<&Batch>,
    ) -> Result<(), Error> {
        self.deaths.answered();
        self.planner.batch_answered(items, &results);
        // The record's error is returned last, so that the consumer gets the answers that the checkpoint has
        // lost.
        let recorded = self.checkpoint.answered(first, items, &results, whole);
        let Sorted { chunks, again } = self.attempts.sort(first, items, self.result_stride, results, whole);
        // What is tried again stays in the batch that it was pulled with.
        self.checkpoint.settled(first, items.saturating_sub(again.len() as u32));
        let again = whole.map(|whole| whole.singles(&again, || self.next_id())).unwrap_or_default();
        for piece in again {
            self.resubmit_queue.insert(piece.first(), piece);
        }
        for chunk in chunks {
            self.deliver(chunk);
        }
        recorded
    }

    /// Passes answers on to the consumer. If the map stops at a failure, the failed item and those after it
    /// in the chunk leave a gap, and the results before the gap are delivered.
    pub(super) fn deliver(&mut self, mut chunk: ResultChunk) {
        if self.limits.stops()
            && let Some(error) = chunk.cut_at_failure()
        {
            // Counted here: this error reaches the consumer as the map's end, and not out of a chunk.
            let error = self.report.failed(error);
            self.limits.fail_fast(error);
        }
        if chunk.left() > 0 {
            self.reorder_buffer.insert(chunk);
        }
    }

    /// # Errors
    /// If so many workers died that the map ends: see [`CrashAbort::check`].
    fn check_deaths(&mut self) -> Result<(), Error> {
        // Lethal items at the end of an input are answered like any other: nothing is left that could fail.
        if self.is_answered() {
            return Ok(());
        }
        if self.report.has_results() {
            // Results of the calling thread and of a checkpoint count: they show that items can be executed.
            self.deaths.lived();
        }
        let workers = self.mode.run().map_or(1, |run| run.capacity().workers);
        self.deaths.check(workers, self.attempts.retries)
    }
}
