//! The part of a map that knows no types: when to read, how much, what to send again, when it is over.
//! Driven by the adapter inside `next()`; drives a [`Run`]. Order and bytes are the window's, deaths are `losses`' (of the
//! backends) and `deaths`'.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::losses::{Piece, after_loss};
use fastmap_backends::sizing::{Observed, batch_items};
use fastmap_backends::{
    Batch, BatchBuilder, BatchId, Completion, Context, FunctionId, Job, JobId, Outcome, Results, Run, Running,
};

use crate::checkpoint::{Checkpoint, Recalled};
use crate::error::{Error, ErrorKind};
use crate::feed::Level;
use crate::floats::Mode;
use crate::map::attempts::{Sorted, Tries};
use crate::map::deaths::Deaths;
use crate::map::early_stop::Limits;
use crate::map::reorder::Window;
use crate::map::results::Segment;
use crate::report::Report;
use crate::runtime::Runtime;
use crate::worker::typed_loop::Entry;

/// An input that is slower than this is sent on as it comes.
const SLOW_INPUT: Duration = Duration::from_millis(5);
/// How often a waiting map looks up, to move its progress bar.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How often a map that waits for results looks whether its feed has got an item, if there is a place for
/// one.
const LOOK_AT_FEED: Duration = Duration::from_millis(5);
/// Room made for a batch, over what its items are expected to take: items vary.
const ROOM: f64 = 1.1;
/// Results a batch may always bring, however small the budget.
const CREDIT: usize = 64 * 1024;

/// How the context gets its bytes: when the map begins, and no sooner.
pub(crate) type Encode = Box<dyn FnOnce() -> Result<Context, Error> + Send>;

/// One map.
pub(crate) struct Drive {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) function: FunctionId,
    entry: Entry,
    pub(crate) context: Option<Encode>,
    pub(crate) label: Option<String>,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) tries: Tries,
    result_stride: Option<u32>,
    pub(crate) report: Report,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) window: Window,
    /// What the consumer reads now.
    pub(crate) current: Segment,
    pub(crate) job: JobId,
    pub(crate) run: Option<Box<dyn Run>>,
    /// What was pulled and not sent yet. Here, so that a panic of the input loses nothing.
    pub(crate) builder: BatchBuilder,
    item_stride: Option<u32>,
    /// Batches to be sent again, earlier items first.
    again: BTreeMap<u64, Batch>,
    /// Items in the backend's hands.
    in_flight: u64,
    /// Items pulled from the input.
    pub(crate) pulled: u64,
    pub(crate) reading: Reading,
    /// Items left in the input, if it tells.
    pub(crate) remaining: Option<u64>,
    batches: u64,
    pub(crate) last_size: u32,
    /// The work that the place wanted for which that was sized.
    last_work: Duration,
    pub(crate) seen: Seen,
    /// Nothing more may be read until something is consumed or comes back.
    pub(crate) resting: bool,
    /// The calling thread has the items: no run is open, and none failed to be.
    pub(crate) here: bool,
    deaths: Deaths,
    ended: bool,
}

/// Whether there is more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    On,
    /// Not until all that was read is answered: then the calling thread goes on.
    Held,
    Ended,
}

/// Moving means of what was observed, the latest batches weighing most.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) item_time: Option<Duration>,
    bytes_in: f64,
    bytes_out: f64,
}

/// What the next batch is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) items: u32,
    pub(crate) bytes: usize,
    /// After this time what was pulled is sent.
    pub(crate) patience: Duration,
}

/// How pulling ended.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// The plan is fulfilled, or the input is slow.
    Enough,
    /// The input has ended.
    End,
    /// The item behind the last one could not be encoded.
    Unwritable(Error),
}

impl Drive {
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        entry: Entry,
        context: Option<Encode>,
        item_stride: Option<u32>,
        result_stride: Option<u32>,
    ) -> Self {
        let settings = runtime.settings();
        let window = Window::new(settings.read_ahead);
        let item_timeout = settings.item_timeout;
        let report = Report::new(settings.verbosity, settings.timings.clone());
        Drive {
            runtime,
            function: entry.id(),
            entry,
            context,
            label: None,
            item_timeout,
            limits: Limits::default(),
            tries: Tries::default(),
            result_stride,
            report,
            checkpoint: Checkpoint::default(),
            window,
            current: Segment::default(),
            job: JobId::next(),
            run: None,
            builder: BatchBuilder::new(item_stride),
            item_stride,
            again: BTreeMap::new(),
            in_flight: 0,
            pulled: 0,
            reading: Reading::On,
            remaining: None,
            batches: 0,
            last_size: 0,
            last_work: Duration::ZERO,
            seen: Seen::default(),
            resting: false,
            here: false,
            deaths: Deaths::default(),
            ended: false,
        }
    }

    /// Whether the map has given its last item or its last error.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
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

    /// Items that are pulled and not handed to the consumer with their segment.
    pub(crate) fn undelivered(&self) -> u64 {
        self.pulled + self.checkpoint.compared() + u64::from(self.builder.items()) - self.window.taken()
    }

    /// Begins the map if it has not begun.
    pub(crate) fn begin(&mut self, items: Option<u64>) -> Result<(), Error> {
        if self.run.is_some() {
            return Ok(());
        }
        self.remaining = items;
        self.limits.begin(Instant::now());
        self.report.begin(self.label.as_deref(), &self.function.name, items)?;
        let mut context = match self.context.take() {
            Some(encode) => encode()?,
            None => Context::default(),
        };
        if let Some(mode) = Mode::unusual() {
            self.function = self.entry.id_in_mode();
            context = mode.append_to(&context).map_err(|error| {
                Error::new(ErrorKind::Io, format!("the context can't be kept in memory: {error}"))
                    .with_source(error)
            })?;
        }
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
        self.run = Some(backend.open(Arc::new(job)).map_err(Error::of_backend)?);
        self.report.has_begun(self.item_stride.is_some() && self.result_stride.is_some());
        Ok(())
    }

    /// Goes on to the next segment, if it is there: the consumer is done with the one before.
    pub(crate) fn take(&mut self) {
        self.resting = false;
        self.report.read(self.current.read());
        self.current = self.window.take().unwrap_or_default();
    }

    /// Whether there is a place for a batch and something that may be sent to it. Cheap: asked at each look.
    #[inline]
    pub(crate) fn hungry(&mut self) -> bool {
        if self.resting || self.reading != Reading::On && self.again.is_empty() && self.builder.items() == 0 {
            return false;
        }
        self.run.as_mut().is_some_and(|run| run.capacity().batches > 0)
    }

    /// What to pull next, if anything: `None` where the places are taken or the budget is used up.
    pub(crate) fn plan(&mut self) -> Option<Plan> {
        self.send_again();
        let capacity = self.run.as_mut()?.capacity();
        // What was pulled and can't be sent goes first; where a run has failed, nothing more may be read.
        if !self.again.is_empty() {
            // With a place free it is the budget that stands in the way.
            self.resting = capacity.batches > 0;
            return None;
        }
        if capacity.batches == 0 && self.in_flight > 0
            || self.reading != Reading::On && self.builder.items() == 0
        {
            return None;
        }
        // Enough is ready for the consumer: it is the slow one, and reading on would only hold more.
        if self.window.deliverable() > capacity.slots {
            self.resting = true;
            return None;
        }
        self.window.set_places(capacity.slots);
        self.report.workers(capacity.workers);
        let work = capacity.targets.work;
        if self.last_work != work {
            // Two kinds of places take turns: growth is told in terms of what each wants.
            let times = if self.last_work.is_zero() { 1.0 } else { work.div_duration_f64(self.last_work) };
            self.last_size = (f64::from(self.last_size) * times).ceil() as u32;
            self.last_work = work;
        }
        let observed = Observed {
            workers: capacity.workers,
            remaining: self.remaining,
            item_time: self.seen.item_time,
            item_bytes: self.seen.bytes_in.max(self.seen.bytes_out),
            last: self.last_size,
        };
        let items = self.checkpoint.limit(self.pulled, batch_items(&observed, &capacity.targets));
        let expected = f64::from(items) * (self.seen.bytes_in + self.seen.bytes_out);
        let first = self.pulled;
        if !self.window.admits(first, expected) {
            self.resting = true;
            return None;
        }
        self.checkpoint.wait_for_room(capacity.batches);
        let bytes =
            (f64::from(items) * self.seen.bytes_in * ROOM).min(self.runtime.settings().read_ahead as f64);
        self.builder.reserve(bytes as usize);
        Some(Plan { items, bytes: capacity.targets.bytes, patience: SLOW_INPUT })
    }

    /// Where the pulled items go.
    pub(crate) fn builder(&mut self) -> &mut BatchBuilder {
        &mut self.builder
    }

    /// Sends what was pulled, or answers it with what is recorded.
    ///
    /// # Errors
    /// If the input is not the one whose results are recorded.
    pub(crate) fn pulled(&mut self, how: Pulled, remaining: Option<u64>) -> Result<(), Error> {
        self.remaining = remaining;
        if self.checkpoint.recalls(self.pulled) {
            self.recall()?;
        } else if self.builder.items() > 0 {
            let builder = std::mem::replace(&mut self.builder, BatchBuilder::new(self.item_stride));
            let items = builder.items();
            let each = builder.bytes() as f64 / f64::from(items);
            mean(&mut self.seen.bytes_in, each, self.batches == 0);
            let id = self.next_id();
            let credit = self.result_credit();
            let batch = builder.finish(self.job, id, self.pulled, credit);
            self.pulled += u64::from(items);
            self.last_size = items;
            self.checkpoint.pulled(&batch);
            self.again.insert(batch.first(), batch);
            self.send_again();
        }
        match how {
            Pulled::Enough => {}
            Pulled::End => {
                self.end_input();
                self.checkpoint.input_ended(self.pulled + self.checkpoint.compared())?;
            }
            Pulled::Unwritable(error) if self.checkpoint.recalls(self.pulled) => {
                let index = self.pulled + self.checkpoint.compared();
                return Err(self.checkpoint.unwritable(error, index));
            }
            Pulled::Unwritable(error) => {
                self.deliver(Segment::failed(self.pulled, error));
                self.pulled += 1;
            }
        }
        Ok(())
    }

    /// Compares what was pulled with what is recorded.
    fn recall(&mut self) -> Result<(), Error> {
        let builder = std::mem::replace(&mut self.builder, BatchBuilder::new(self.item_stride));
        let recalled = self.checkpoint.compare(builder.items(), builder.encoded())?;
        if let Some(Recalled { items, results }) = recalled {
            self.report.recalled(items);
            let segment = Segment::done(self.pulled, items, self.result_stride, results.into(), Vec::new());
            self.window.insert(segment);
            self.pulled += u64::from(items);
        }
        Ok(())
    }

    fn next_id(&mut self) -> BatchId {
        self.batches += 1;
        BatchId(self.batches)
    }

    /// A share of the budget for the results of each batch: what goes beyond comes in parts.
    fn result_credit(&mut self) -> u64 {
        let slots = self.run.as_mut().map_or(1, |run| run.capacity().slots);
        let share = self.runtime.settings().read_ahead / (4 * slots.max(1));
        share.max(CREDIT) as u64
    }

    /// Sends batches that are ready, as far as there are places and bytes.
    fn send_again(&mut self) {
        while let Some(entry) = self.again.first_entry() {
            let batch = entry.get();
            let expected = batch.payload().len() as f64 + f64::from(batch.items()) * self.seen.bytes_out;
            if !self.window.admits(batch.first(), expected) {
                return;
            }
            let Some(run) = self.run.as_mut() else { return };
            let batch = entry.remove();
            let items = u64::from(batch.items());
            self.window.charge(&batch, self.seen.bytes_out);
            self.report.sent(&batch);
            self.tries.sent(&batch);
            match run.submit(batch) {
                Ok(()) => self.in_flight += items,
                Err(error) => {
                    // A run that is closed says why when it is polled.
                    let batch = error.into_batch();
                    self.window.discharge(batch.id(), batch.items());
                    self.tries.back(batch.id(), batch.items());
                    self.again.insert(batch.first(), batch);
                    return;
                }
            }
        }
    }

    /// Answers are owed, or a batch was refused, of which the run says why.
    pub(crate) fn expects_news(&self) -> bool {
        self.in_flight > 0 || !self.again.is_empty()
    }

    /// Whether batches that are under way are worked on, or will be in a moment.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.run.as_mut().is_none_or(|run| run.readiness().ready)
    }

    /// Takes completions that are there, without waiting.
    ///
    /// # Errors
    /// What ends the map: its run, or one of its limits.
    pub(crate) fn collect(&mut self) -> Result<(), Error> {
        while self.expects_news() && self.take_one(Instant::now())? {}
        self.limits.check(self.is_answered())
    }

    /// Waits for news. `Ok(false)`: there is nothing to wait for.
    pub(crate) fn wait(&mut self) -> Result<bool, Error> {
        if !self.expects_news() {
            return Ok(false);
        }
        self.wait_for(LOOK_UP)?;
        Ok(true)
    }

    /// Waits for an answer, no longer than `most`; gives how long that took.
    pub(crate) fn wait_for(&mut self, most: Duration) -> Result<Duration, Error> {
        let begun = Instant::now();
        let taken = self.take_one(self.limits.until(begun + most));
        let waited = begun.elapsed();
        self.report.waited(waited);
        taken?;
        self.tick();
        self.collect()?;
        Ok(waited)
    }

    /// Waits for an answer, or for an item of the feed.
    pub(crate) fn wait_beside(&mut self, feed: Option<&Level>) -> Result<(), Error> {
        if self.expects_news() {
            let most = if self.hungry() { LOOK_AT_FEED } else { LOOK_UP };
            return self.wait_for(most).map(drop);
        }
        let Some(feed) = feed else { return Ok(()) };
        if feed.is_work_list() && self.is_drained() {
            self.end_input();
            return self.checkpoint.input_ended(self.pulled + self.checkpoint.compared());
        }
        feed.wait(self.limits.until(Instant::now() + LOOK_UP));
        self.tick();
        self.collect()
    }

    /// Tells how far the map is, if that is due.
    pub(crate) fn tick(&mut self) {
        if self.report.is_due() {
            if let Some(run) = &mut self.run {
                self.report.spent(run.cost_so_far());
            }
            self.report.tick(self.current.read());
        }
    }

    fn take_one(&mut self, deadline: Instant) -> Result<bool, Error> {
        let Some(run) = self.run.as_mut() else { return Ok(false) };
        let Some(completion) = run.poll(deadline).map_err(Error::of_backend)? else { return Ok(false) };
        let Completion { batch, first, items, outcome } = completion;
        self.resting = false;
        let more = self.window.discharge(batch, items);
        let kept = self.tries.back(batch, items);
        self.in_flight = self.in_flight.saturating_sub(u64::from(items));
        match outcome {
            Outcome::Done(results) => {
                self.report.answered(batch, more, first, items, &results);
                self.answered(first, items, results, kept.as_ref())?;
            }
            Outcome::Returned(rest) => {
                self.again.insert(rest.first(), rest);
            }
            Outcome::Lost(lost, loss) => {
                self.report.lost(&lost, &loss);
                // A batch that is halved is progress: it ends with the guilty item alone, which is answered.
                if lost.items() == 1 || loss.running != Running::Unknown {
                    self.deaths.died(loss.death.clone());
                }
                for piece in after_loss(lost.items(), lost.attempt(), self.tries.retries, &loss) {
                    match piece {
                        Piece::Again(range, attempt) => {
                            let id = self.next_id();
                            let piece = lost.piece(id, range.start, range.end, attempt);
                            self.again.insert(piece.first(), piece);
                        }
                        Piece::Answer(item, tries) => {
                            let index = lost.first() + u64::from(item);
                            self.checkpoint.settled(index, 1);
                            let error = Error::of_death(loss.death.clone()).tried(tries);
                            self.deliver(Segment::failed(index, error));
                            self.deaths.settled(loss.death.clone());
                        }
                    }
                }
                self.check_deaths()?;
            }
        }
        self.send_again();
        Ok(true)
    }

    fn answered(
        &mut self,
        first: u64,
        items: u32,
        results: Results,
        kept: Option<&Batch>,
    ) -> Result<(), Error> {
        self.deaths.answered();
        let each = f64::from(items.max(1));
        let time = results.wall.div_f64(each);
        self.seen.item_time = Some(self.seen.item_time.map_or(time, |old| (old + time) / 2));
        let fresh = self.seen.bytes_out == 0.0;
        mean(&mut self.seen.bytes_out, results.payload.bytes().len() as f64 / each, fresh);
        let recorded = self.checkpoint.answered(first, items, &results, kept);
        let Sorted { segments, again } = self.tries.sort(first, items, self.result_stride, results, kept);
        // What is tried again stays in the batch that it was pulled with.
        self.checkpoint.settled(first, items.saturating_sub(again.len() as u32));
        let again = kept.map(|whole| whole.singles(&again, || self.next_id())).unwrap_or_default();
        for piece in again {
            self.again.insert(piece.first(), piece);
        }
        for segment in segments {
            self.deliver(segment);
        }
        recorded
    }

    /// Answers for the consumer. Where the map stops at a failure, the failed item and what is behind it in the
    /// segment leave a gap, up to which is delivered what is here.
    fn deliver(&mut self, mut segment: Segment) {
        if self.limits.stops()
            && let Some(error) = segment.cut_at_failure()
        {
            let error = self.report.failed(error);
            self.limits.halt(error);
        }
        if segment.left() > 0 {
            self.window.insert(segment);
        }
    }

    /// # Errors
    /// If so many workers died that the map ends: see [`Deaths::check`].
    fn check_deaths(&mut self) -> Result<(), Error> {
        if self.is_answered() {
            return Ok(());
        }
        if self.report.has_results() {
            // The calling thread has some as well, and a checkpoint.
            self.deaths.lived();
        }
        let workers = self.run.as_mut().map_or(1, |run| run.capacity().workers);
        self.deaths.check(workers, self.tries.retries)
    }

    /// The run can't go on: nothing more is read or waited for, only what is here is still to be delivered.
    pub(crate) fn stop(&mut self) {
        if let Some(mut run) = self.run.take() {
            self.report.account(run.summary(), run.local_baseline());
            self.report.spent(run.close());
        }
        self.again.clear();
        self.in_flight = 0;
        self.here = false;
    }

    /// The map is over: its run ends, and its line is written.
    pub(crate) fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let complete = self.input_ended() && (self.run.is_some() || self.here);
        self.stop();
        // Whom it could be told is gone, or was told before.
        let _left_early = self.checkpoint.close();
        self.report.read(self.current.read());
        self.report.end(complete);
    }

    /// Whether the deadline is over while work may be out.
    #[inline]
    pub(crate) fn is_late(&self) -> bool {
        self.run.is_some() && self.limits.is_late()
    }

    /// The consumer has read an answer that ends the map.
    pub(crate) fn end_here(&mut self) {
        self.current.cut();
        self.stop();
        self.end();
    }

    /// Whether every item of the input has its answer, as far as the input tells.
    fn is_answered(&self) -> bool {
        let all_pulled = self.input_ended() || self.remaining == Some(0);
        all_pulled && self.in_flight == 0 && self.again.is_empty() && self.builder.items() == 0
    }

    /// Whether every item that was pulled has been taken by the consumer, and no more come.
    pub(crate) fn is_complete(&self) -> bool {
        self.input_ended() && self.is_drained()
    }

    /// Whether every item that was pulled has been taken by the consumer.
    pub(crate) fn is_drained(&self) -> bool {
        self.in_flight == 0 && self.again.is_empty() && self.builder.items() == 0 && self.window.is_empty()
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.end();
    }
}

/// Moves a mean halfway to a new value.
fn mean(mean: &mut f64, value: f64, first: bool) {
    *mean = if first { value } else { f64::midpoint(*mean, value) };
}
