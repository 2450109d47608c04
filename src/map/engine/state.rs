//! The part of a map that knows no types: when to read, how much, what to send again, when the map is over.
//! The adapter calls it inside `next()`; it calls a [`Run`]. `reorder` has order and budget, `split_after_crash` (of the
//! backends) and `crash_abort` have lost batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::{Batch, BatchBuilder, BatchId, Context, FunctionId, Job, JobId};

use crate::checkpoint::{Checkpoint, Restored};
use crate::error::{Error, ErrorKind};
use crate::floats;
use crate::map::attempts::Attempts;
use crate::map::crash_abort::CrashAbort;
use crate::map::early_stop::EarlyStop;
use crate::map::engine::mode::Mode;
use crate::map::engine::planner::{BatchPlanner, Plan};
use crate::map::reorder::ReorderBuffer;
use crate::map::results::ResultChunk;
use crate::report::MapReport;
use crate::runtime::Runtime;
use crate::worker::typed_loop::Entry;

/// What was pulled is sent after this time, so that workers need not wait for a slow input.
const SLOW_INPUT: Duration = Duration::from_millis(5);
/// Bytes of results that a batch may always have, however small the budget.
const CREDIT: usize = 64 * 1024;

/// Encodes the context. Called when the map begins.
pub(crate) type Encode = Box<dyn FnOnce() -> Result<Context, Error> + Send>;

/// One map.
pub(crate) struct MapEngine {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) function: FunctionId,
    entry: Entry,
    pub(crate) context: Option<Encode>,
    pub(crate) label: Option<String>,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) limits: EarlyStop,
    pub(crate) attempts: Attempts,
    pub(super) result_stride: Option<u32>,
    pub(crate) report: MapReport,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) reorder_buffer: ReorderBuffer,
    /// The result chunk that the consumer reads.
    pub(crate) current: ResultChunk,
    pub(crate) job: JobId,
    pub(super) mode: Mode,
    /// Items that were pulled and not sent yet. A field, so that a panic of the input loses none of them.
    pub(crate) builder: BatchBuilder,
    item_stride: Option<u32>,
    /// Batches to be sent again, earlier items first.
    pub(super) resubmit_queue: BTreeMap<u64, Batch>,
    /// Items that the backend has.
    pub(super) in_flight: u64,
    /// Items pulled from the input.
    pub(crate) pulled: u64,
    pub(crate) reading: Reading,
    /// Items left in the input, if its `size_hint` is exact.
    pub(crate) remaining: Option<u64>,
    batches: u64,
    pub(crate) planner: BatchPlanner,
    /// Nothing more may be read until a result is consumed or a batch is answered.
    pub(crate) paused_by_budget: bool,
    pub(super) deaths: CrashAbort,
}

/// Whether there is more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    On,
    /// Nothing is read until all items that were read are answered; then the calling thread continues.
    Held,
    Ended,
}

/// How pulling ended.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// The plan is fulfilled, or the input is slow.
    Enough,
    /// The input has ended.
    End,
    /// The item after those in the builder could not be encoded.
    Unwritable(Error),
}

impl MapEngine {
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        entry: Entry,
        context: Option<Encode>,
        item_stride: Option<u32>,
        result_stride: Option<u32>,
    ) -> Self {
        let settings = runtime.settings();
        let reorder_buffer = ReorderBuffer::new(settings.read_ahead);
        let item_timeout = settings.item_timeout;
        let report = MapReport::new(settings.verbosity, settings.timings.clone());
        MapEngine {
            runtime,
            function: entry.id(),
            entry,
            context,
            label: None,
            item_timeout,
            limits: EarlyStop::default(),
            attempts: Attempts::default(),
            result_stride,
            report,
            checkpoint: Checkpoint::default(),
            reorder_buffer,
            current: ResultChunk::default(),
            job: JobId::next(),
            mode: Mode::Unopened,
            builder: BatchBuilder::new(item_stride),
            item_stride,
            resubmit_queue: BTreeMap::new(),
            in_flight: 0,
            pulled: 0,
            reading: Reading::On,
            remaining: None,
            batches: 0,
            planner: BatchPlanner::default(),
            paused_by_budget: false,
            deaths: CrashAbort::default(),
        }
    }

    /// Whether the map has given its last item or its last error.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.mode, Mode::Ended)
    }

    pub(crate) fn input_ended(&self) -> bool {
        self.reading == Reading::Ended
    }

    /// Whether the input may be pulled.
    pub(crate) fn reads_on(&self) -> bool {
        self.reading == Reading::On
    }

    /// The input has no more, or must not be asked again.
    pub(crate) fn end_input(&mut self) {
        self.reading = Reading::Ended;
        self.remaining = Some(0);
    }

    /// Items that are pulled and not handed to the consumer with their result chunk.
    pub(crate) fn undelivered(&self) -> u64 {
        // Compared items are pulled already, and enter `pulled` with the last item of their segment.
        self.pulled + self.checkpoint.compared() + u64::from(self.builder.items())
            - self.reorder_buffer.taken()
    }

    /// Begins the map if it has not begun.
    pub(crate) fn begin(&mut self, items: Option<u64>) -> Result<(), Error> {
        if matches!(self.mode, Mode::Running(_)) {
            return Ok(());
        }
        self.remaining = items;
        // The deadline counts from the first `next()`: opening the backend is part of the time.
        self.limits.begin(Instant::now());
        // A report file that can't be written ends the map here, before any input is read.
        self.report.begin(self.label.as_deref(), &self.function.name, items)?;
        let mut context = match self.context.take() {
            Some(encode) => encode()?,
            None => Context::default(),
        };
        // Workers start in the default mode: equal items would have other bits there than in this thread.
        // Said anew for each run: a map that comes back from the calling thread may find another mode there.
        self.function = self.entry.id();
        if let Some(mode) = floats::Mode::unusual() {
            self.function = self.entry.id_in_mode();
            context = mode.append_to(&context).map_err(|error| {
                Error::new(ErrorKind::Io, format!("the context can't be kept in memory: {error}"))
                    .with_source(error)
            })?;
        }
        // The identity of the records includes the context, and so the floating point mode behind it.
        self.checkpoint.open(&self.function, &context, self.result_stride)?;
        let job = Job {
            id: self.job,
            function: self.function.clone(),
            context,
            label: self.label.clone(),
            items,
            item_timeout: self.item_timeout,
            fail_fast: self.limits.stops(),
            cancel_running: self.limits.cancel_running(),
        };
        let backend = self.runtime.backend()?;
        self.report.backend(backend.name());
        self.mode = Mode::Running(backend.open(Arc::new(job)).map_err(Error::of_backend)?);
        self.report.has_begun(self.item_stride.is_some() && self.result_stride.is_some());
        Ok(())
    }

    /// Goes on to the next result chunk, if it is there: the consumer is done with the one before.
    pub(crate) fn next_chunk(&mut self) {
        self.paused_by_budget = false;
        // Before `current` changes: its answers are counted once, when it is left.
        self.report.read(self.current.read());
        self.current = self.reorder_buffer.take().unwrap_or_default();
    }

    /// Whether there is a place for a batch and something that may be sent to it. Cheap: asked at each look.
    #[inline]
    pub(crate) fn can_submit(&mut self) -> bool {
        if self.paused_by_budget
            || self.reading != Reading::On && self.resubmit_queue.is_empty() && self.builder.items() == 0
        {
            return false;
        }
        self.mode.run().is_some_and(|run| run.capacity().batches > 0)
    }

    /// What to pull next; `None` if no place is free, the budget is used up, or the input is not to be read.
    pub(crate) fn plan(&mut self) -> Option<Plan> {
        self.submit_ready();
        let capacity = self.mode.run()?.capacity();
        // Unsent batches go first: they hold earlier items, and after a run has failed nothing more may be
        // read.
        if !self.resubmit_queue.is_empty() {
            // With a place free only the budget can have kept the batch back.
            self.paused_by_budget = capacity.batches > 0;
            return None;
        }
        // An open run that has no batch always takes one, even if it shows no free place (see `Run::submit`).
        if capacity.batches == 0 && self.in_flight > 0
            || self.reading != Reading::On && self.builder.items() == 0
        {
            return None;
        }
        // More chunks are ready than workers have places: the consumer is slow, and input would only take
        // memory.
        if self.reorder_buffer.deliverable() > capacity.slots {
            self.paused_by_budget = true;
            return None;
        }
        self.reorder_buffer.set_places(capacity.slots);
        self.report.workers(capacity.workers);
        let items = self.planner.batch_items(&capacity, self.remaining);
        // A batch ends where recorded items begin or end: those are compared, all others are sent.
        let items = self.checkpoint.limit(self.pulled, items);
        if !self.reorder_buffer.admits(self.pulled, self.planner.expected_bytes(items)) {
            self.paused_by_budget = true;
            return None;
        }
        // Before a batch is added: a kill must not cost more batches than the backend has places for.
        self.checkpoint.wait_for_room(capacity.batches);
        let bytes = self.planner.input_room(items).min(self.runtime.settings().read_ahead as f64);
        self.builder.reserve(bytes as usize);
        Some(Plan { items, bytes: capacity.targets.bytes, patience: SLOW_INPUT })
    }

    /// Where the pulled items go.
    pub(crate) fn builder(&mut self) -> &mut BatchBuilder {
        &mut self.builder
    }

    /// Sends the pulled items, or answers them from the checkpoint.
    ///
    /// # Errors
    /// If the input is not the one whose results are recorded.
    pub(crate) fn pulled(&mut self, how: Pulled, remaining: Option<u64>) -> Result<(), Error> {
        self.remaining = remaining;
        if self.checkpoint.is_restoring(self.pulled) {
            self.restore()?;
        } else if self.builder.items() > 0 {
            let builder = std::mem::replace(&mut self.builder, BatchBuilder::new(self.item_stride));
            let items = builder.items();
            self.planner.batch_read(items, builder.bytes());
            let id = self.next_id();
            let credit = self.result_credit();
            let batch = builder.finish(self.job, id, self.pulled, credit);
            self.pulled += u64::from(items);
            // Before it is sent: its answer may arrive at once, and is recorded with the inputs noted here.
            self.checkpoint.pulled(&batch);
            self.resubmit_queue.insert(batch.first(), batch);
            self.submit_ready();
        }
        match how {
            Pulled::Enough => {}
            Pulled::End => {
                self.end_input();
                self.checkpoint.input_ended(self.pulled + self.checkpoint.compared())?;
            }
            // A recorded item could be encoded once: the input is another one.
            Pulled::Unwritable(error) if self.checkpoint.is_restoring(self.pulled) => {
                let index = self.pulled + self.checkpoint.compared();
                return Err(self.checkpoint.unwritable(error, index));
            }
            Pulled::Unwritable(error) => {
                // The items before it were sent above, so that `pulled` is this item's index.
                self.deliver(ResultChunk::failed(self.pulled, error));
                self.pulled += 1;
            }
        }
        Ok(())
    }

    /// Compares what was pulled with what is recorded.
    fn restore(&mut self) -> Result<(), Error> {
        let builder = std::mem::replace(&mut self.builder, BatchBuilder::new(self.item_stride));
        let restored = self.checkpoint.compare(builder.items(), builder.encoded())?;
        if let Some(Restored { items, results }) = restored {
            self.report.restored(items);
            let chunk = ResultChunk::done(self.pulled, items, self.result_stride, results.into(), Vec::new());
            // Not by `deliver`: failures are not recorded, so that there is none at which the map would stop.
            self.reorder_buffer.insert(chunk);
            self.pulled += u64::from(items);
        }
        Ok(())
    }

    pub(super) fn next_id(&mut self) -> BatchId {
        self.batches += 1;
        BatchId(self.batches)
    }

    /// Bytes of results that a batch may have at a time: a share of the budget. Larger results come in parts.
    fn result_credit(&mut self) -> u64 {
        let slots = self.mode.run().map_or(1, |run| run.capacity().slots);
        let share = self.runtime.settings().read_ahead / (4 * slots.max(1));
        share.max(CREDIT) as u64
    }

    /// Sends batches that are ready, as far as there are places and bytes.
    pub(super) fn submit_ready(&mut self) {
        while let Some(entry) = self.resubmit_queue.first_entry() {
            let batch = entry.get();
            let expected = batch.payload().len() as f64 + self.planner.expected_results(batch.items());
            // The queue's first batch has the earliest items. If the consumer waits for one in the queue, it
            // is this one, and it is admitted whatever the budget.
            if !self.reorder_buffer.admits(batch.first(), expected) {
                return;
            }
            let Some(run) = self.mode.run() else { return };
            let batch = entry.remove();
            let items = u64::from(batch.items());
            // Before it is sent: the run may answer before `submit` returns. Undone below if it refuses.
            self.reorder_buffer.charge(&batch, self.planner.result_bytes());
            self.report.sent(&batch);
            self.attempts.sent(&batch);
            match run.submit(batch) {
                Ok(()) => self.in_flight += items,
                Err(error) => {
                    // Not an error yet: a closed run reports it when polled, after its results.
                    let batch = error.into_batch();
                    self.reorder_buffer.discharge(batch.id(), batch.items());
                    self.attempts.on_returned(batch.id(), batch.items());
                    self.resubmit_queue.insert(batch.first(), batch);
                    return;
                }
            }
        }
    }

    /// Whether the run takes batches at its full pace: its workers are there.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.mode.run().is_none_or(|run| run.readiness().ready)
    }

    /// Closes the run: nothing more is read, sent or awaited. Results that have arrived are still delivered.
    pub(crate) fn stop(&mut self) {
        let stopped = if self.has_ended() { Mode::Ended } else { Mode::Stopped };
        if let Mode::Running(mut run) = std::mem::replace(&mut self.mode, stopped) {
            self.report.account(run.summary(), run.local_baseline());
            self.report.spent(run.close());
        }
        self.resubmit_queue.clear();
        // A closed run answers nothing more: a wait for these batches would not end.
        self.in_flight = 0;
    }

    /// Begins the map in the calling thread, without a run.
    pub(crate) fn run_inline(&mut self) {
        self.mode = Mode::Inline;
    }

    /// The calling thread hands the rest to workers: the next [`MapEngine::begin`] opens a run.
    pub(crate) fn leave_inline(&mut self) {
        self.mode = Mode::Unopened;
    }

    /// Closes the run, whose items are all answered, so that the calling thread can continue.
    pub(crate) fn close_run(&mut self) {
        if let Mode::Running(run) = std::mem::replace(&mut self.mode, Mode::Inline) {
            run.close();
        }
    }

    /// The map is over: its run ends, and its line is written.
    pub(crate) fn end(&mut self) {
        if self.has_ended() {
            return;
        }
        // Before `stop` changes the mode. A map that failed is `Stopped` already, and counts as incomplete.
        let complete = self.input_ended() && matches!(self.mode, Mode::Running(_) | Mode::Inline);
        self.stop();
        self.mode = Mode::Ended;
        // Ignored: either the consumer has been dropped, or an earlier `close()` already returned the error.
        let _ = self.checkpoint.close();
        self.report.read(self.current.read());
        self.report.end(complete);
    }

    /// Whether the deadline has passed while items may be in flight.
    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        // A map that its deadline has ended is `Stopped`, and must not fail a second time.
        matches!(self.mode, Mode::Running(_)) && self.limits.is_late()
    }

    /// The consumer has read an answer that ends the map.
    pub(crate) fn end_here(&mut self) {
        self.current.cut();
        self.stop();
        self.end();
    }

    /// Whether every item of the input has its answer, as far as the input's `size_hint` says.
    pub(super) fn is_answered(&self) -> bool {
        let all_pulled = self.input_ended() || self.remaining == Some(0);
        all_pulled && self.in_flight == 0 && self.resubmit_queue.is_empty() && self.builder.items() == 0
    }

    /// Whether every item that was pulled has been taken by the consumer, and no more come.
    pub(crate) fn is_complete(&self) -> bool {
        self.input_ended() && self.is_drained()
    }

    /// Whether every item that was pulled has been taken by the consumer.
    pub(crate) fn is_drained(&self) -> bool {
        self.in_flight == 0
            && self.resubmit_queue.is_empty()
            && self.builder.items() == 0
            && self.reorder_buffer.is_empty()
    }
}

impl Drop for MapEngine {
    fn drop(&mut self) {
        self.end();
    }
}
