//! The calling thread as a place for items: what the option `inline` adds to a map. The adapter calls it when
//! it has no answer at hand; `policy` decides, `function` calls the user's function.
//!
//! Items run inline or by workers, never both: the calling thread goes on alone while workers start, then
//! hands over at an index and waits like any map. If workers are not worth their cost, no more is read until
//! all that was read is answered, and the calling thread continues at that index. So order and budgets are
//! the same as without this option.

use std::sync::Arc;
use std::time::Instant;

use fastmap_backends::{Context, JobId};
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::map::Fastmap;
use crate::map::engine::{MapEngine, Reading};
use crate::map::inline::function::Stopped;
use crate::map::inline::policy::{Choice, Slower, Workers};
use crate::map::inline::state::{Location, Made, STRETCH, Step};
use crate::map::inline::warm_up::WarmUp;
use crate::map::input::Prospect;
use crate::map::read_pacing::Caution;
use crate::runtime::Runtime;
use crate::settings::cores;

impl<I: Iterator, R: DeserializeOwned> Fastmap<I, R> {
    /// The next step when no answer is at hand.
    pub(crate) fn inline_step(&mut self) -> Step<R> {
        let Some(source) = &mut self.inline_source else { return Step::Workers };
        match source.location {
            Location::Inline => self.next_inline(),
            Location::Unknown => match self.choose_first_location() {
                Ok(()) => self.inline_step(),
                Err(error) => {
                    self.fail(error);
                    // Without a source `next_slow` delivers the failure and ends the map, as after a run's
                    // failure.
                    self.inline_source = None;
                    Step::Workers
                }
            },
            Location::Workers => {
                self.check_regression();
                Step::Workers
            }
            Location::Returning => {
                if self.engine.report.has_deaths() {
                    // The item that has ended the worker may be among those to come, and would end this
                    // process.
                    source.location = Location::Workers;
                    self.engine.resume_input();
                    return Step::Workers;
                }
                // This thread continues after the last item that was read: earlier answers must be out first.
                if self.failure.is_some() || !self.engine.is_drained() {
                    return Step::Workers;
                }
                self.return_to_inline();
                self.next_inline()
            }
        }
    }

    /// The map begins, in this thread if that is allowed.
    fn choose_first_location(&mut self) -> Result<(), Error> {
        let may_run_inline = self.may_run_inline();
        let Some(source) = &mut self.inline_source else { return Ok(()) };
        source.begun = Instant::now();
        if !may_run_inline {
            return self.hand_over();
        }
        self.engine.begin_inline(self.input.remaining())?;
        if self.engine.runtime().workers_seen() {
            source.workers = Workers::Warm;
        }
        source.location = Location::Inline;
        Ok(())
    }

    /// Whether the calling thread may run items at all, now and later. An item that runs there can't be ended, nor
    /// tried again in another process. A feed may be empty: the calling thread would wait in it, and a work list
    /// would end while results of a portion, from which more work comes, are not read.
    fn may_run_inline(&self) -> bool {
        !self.engine.needs_workers() && self.input.feed().is_none()
    }

    /// The results are not read by `Fastmap::next`, which alone makes single calls.
    pub(crate) fn only_portions(&mut self) {
        if let Some(source) = &mut self.inline_source {
            source.singly = false;
        }
    }

    /// Returns an inline result, or runs more items; hands over to workers when that is worth it.
    fn next_inline(&mut self) -> Step<R> {
        loop {
            let Some(source) = &mut self.inline_source else { return Step::Workers };
            // Single calls only count down a budget: until here the index is behind by their number.
            source.index += u64::from(self.engine.report.count_inline());
            // Results of the portion below, or of one whose input panicked and so ended `next` without an
            // answer.
            if !source.results.is_empty() {
                let results = std::mem::take(&mut source.results);
                source.index += results.len() as u64;
                self.made = Made { results: results.into_iter(), end: source.index };
                if let Some((index, result)) = self.made.next() {
                    self.engine.report.read(1);
                    return Step::Answer(Ok((index, Ok(result))));
                }
            }
            // After the results, because the item that panicked follows them.
            if let Some(message) = source.panicked.take() {
                let error = Error::new(ErrorKind::Panic, message).at(source.index);
                source.index += 1;
                self.engine.report.read(1);
                let error = self.engine.report.failed(error);
                return Step::Answer(Ok((source.index - 1, Err(error))));
            }
            if self.engine.input_ended() {
                self.engine.end();
                return Step::End;
            }
            if source.calls_singly() {
                // Single calls report no progress: it is looked at here, once in a stretch.
                self.engine.report.tick(self.engine.current.read());
                self.engine.report.set_inline_budget(STRETCH);
                let index = source.index;
                if let Some(result) = self.call() {
                    return Step::Answer(Ok((index, Ok(result))));
                }
                // Else the function panicked, which the next round answers.
                if self.input.iterator().is_none() {
                    self.engine.end_input();
                }
                continue;
            }
            if source.workers == Workers::Starting || source.pace.has_evidence(source.workers) {
                match self.choose_location() {
                    Ok(false) => {}
                    Ok(true) => return Step::Workers,
                    Err(error) => {
                        self.fail(error);
                        self.inline_source = None;
                        return Step::Workers;
                    }
                }
            }
            self.run_portion();
        }
    }

    /// Runs one portion.
    fn run_portion(&mut self) {
        let Some(source) = &mut self.inline_source else { return };
        let mut portion = source.pace.portion(size_of::<R>());
        let prospect = self.input.prospect();
        if self.caution.is_on(prospect == Prospect::Promised) {
            // The input may wait for a result of this portion.
            portion.items = 1;
        }
        let begun = Instant::now();
        let stopped = source.inline_fn.call(self.input.iterator(), &mut source.results, &portion);
        let time = begun.elapsed();
        match stopped {
            Stopped::Full => {}
            Stopped::Panicked(message) => source.panicked = Some(message),
            Stopped::End => self.engine.end_input(),
        }
        let items = source.undelivered() as u32;
        // The time includes the function's, so that a quick input may pass for one that waits. That costs
        // little: portions of items this slow are single items anyway.
        self.caution.pulled(items, time);
        source.pace.observe(items, time);
        self.engine.report.done_inline(source.index, items, time, self.engine.current.read());
    }

    /// Hands over to workers if that is worth it (`true`), or starts them if it will be.
    fn choose_location(&mut self) -> Result<bool, Error> {
        let Some(source) = &mut self.inline_source else { return Ok(true) };
        let runtime = self.engine.runtime();
        if let Some(warm_up) = &mut source.warm_up {
            match warm_up.answered() {
                None => return Ok(false),
                Some(answer) => source.workers = answer,
            }
            source.warm_up = None;
            if source.workers == Workers::Ready {
                // Maps of this configuration that begin from now on need less evidence: the workers are most
                // likely still there.
                runtime.see_workers();
            }
        }
        // Workers beyond the number of cores share the cores and compute nothing more.
        let places = runtime.settings().local_processes.min(cores());
        match source.pace.choose(self.input.size_hint(), places, source.workers) {
            Choice::Stay => Ok(false),
            Choice::WarmUp => {
                match WarmUp::new(&runtime, places) {
                    Ok(warm_up) => (source.warm_up, source.workers) = (Some(warm_up), Workers::Starting),
                    Err(error) => {
                        // Not an error of the map: this thread can run all of its items.
                        log::info!("staying in the calling thread: {error}");
                        source.workers = Workers::Refused;
                    }
                }
                Ok(false)
            }
            Choice::HandOver => self.hand_over().map(|()| true),
        }
    }

    /// Hands the further items to workers.
    fn hand_over(&mut self) -> Result<(), Error> {
        let Some(source) = &mut self.inline_source else { return Ok(()) };
        source.location = Location::Workers;
        source.warm_up = None;
        // Until now pulls were measured together with calls of the function.
        self.caution = Caution::new();
        let now = source.now();
        let items = source.index - source.from;
        // The report counts over all stays with workers: what it has now is the zero of this one.
        let (answered, worked) = self.engine.report.by_workers();
        source.regression.begin(
            (now - source.since) / items.max(1) as f64,
            now,
            answered,
            worked.as_secs_f64(),
        );
        source.since = now;
        let context = source.inline_fn.context()?;
        self.engine.report.moves(source.index, "workers");
        // Without a measured item the planner starts from what it knows, at first with a batch of one item.
        self.engine.switch_to_workers(source.index, (items > 0).then(|| source.pace.item()), context);
        Ok(())
    }

    /// Checks from time to time whether it was right to hand over.
    fn check_regression(&mut self) {
        let report = &self.engine.report;
        // An item that has ended a worker would end this process. And the cost of a map, and its limit, are those of
        // one run: a second one would have the whole limit again.
        let stays = report.has_deaths() || report.has_cost();
        if stays || !self.may_run_inline() || self.failure.is_some() {
            return;
        }
        let Some(source) = &mut self.inline_source else { return };
        let now = source.now();
        let (answered, worked) = self.engine.report.by_workers();
        let places = self.engine.runtime().settings().local_processes.min(cores());
        if let Some(Slower { each }) = source.regression.check(now, answered, worked.as_secs_f64(), places) {
            source.location = Location::Returning;
            source.pace.on_return(each, now - source.since);
            self.engine.pause_input();
        }
    }

    /// All that was read is answered: the calling thread goes on.
    fn return_to_inline(&mut self) {
        let Some(source) = &mut self.inline_source else { return };
        source.index = self.engine.switch_to_inline();
        self.engine.report.moves(source.index, "the calling thread");
        source.location = Location::Inline;
        // The workers have just answered, so that the next hand-over needs no warm-up.
        source.workers = Workers::Ready;
        (source.since, source.from) = (source.now(), source.index);
    }
}

/// The calling thread's side of the engine.
impl MapEngine {
    /// Whether the map has options that need workers: limits of time, a stop at failures, retries, a
    /// checkpoint.
    fn needs_workers(&self) -> bool {
        self.item_timeout.is_some()
            || self.limits.cancel_running()
            || self.attempts.retries > 0
            || self.checkpoint.is_wanted()
    }

    fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime)
    }

    /// Begins the map without a run.
    ///
    /// # Errors
    /// Those of a run: a configuration that fails for many items must not work for a few.
    fn begin_inline(&mut self, items: Option<u64>) -> Result<(), Error> {
        self.remaining = items;
        self.report.begin(self.label.as_deref(), &self.function.name, items)?;
        self.runtime.backend()?;
        self.report.backend("in the calling thread");
        self.run_inline();
        Ok(())
    }

    /// All items before `index` are answered. `item` is the time of one in seconds, if it was measured. The
    /// next items go to a run.
    fn switch_to_workers(&mut self, index: u64, item: Option<f64>, context: Context) {
        self.leave_inline();
        self.paused_by_budget = false;
        self.pulled = index;
        // The calling thread's results never enter the buffer, which would wait for them.
        self.reorder_buffer.resume_at(index);
        self.context = Some(Box::new(move || Ok(context)));
        if let Some(item) = item {
            self.planner.measured(item);
        }
    }

    /// Reads nothing more until all is answered.
    fn pause_input(&mut self) {
        // An input that has ended stays ended.
        if self.reading == Reading::On {
            self.reading = Reading::Held;
        }
    }

    /// Undoes [`MapEngine::pause_input`].
    fn resume_input(&mut self) {
        if self.reading == Reading::Held {
            self.reading = Reading::On;
        }
    }

    /// Ends the run, whose items are all answered. Returns the index at which the calling thread continues.
    fn switch_to_inline(&mut self) -> u64 {
        self.close_run();
        self.resume_input();
        // The next hand-over opens another run, and a job's name is used once in a process.
        self.job = JobId::next();
        self.pulled
    }
}
