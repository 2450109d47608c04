//! The calling thread as a place for items: what the option `inline` adds to a map.
//! Called by the adapter where it has nothing to give out; `inline` decides, `function` calls the function.
//!
//! Items run inline or by workers, never both: the calling thread goes on alone while workers are started, then hands over at
//! an index and waits like any map; where workers are not worth their cost, no more is read until all that was read is
//! answered, and the calling thread goes on at that index. So order, windows and budgets need to know nothing of it.

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
                    source.location = Location::Workers;
                    self.engine.resume_input();
                    return Step::Workers;
                }
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
        let Some(source) = &mut self.inline_source else { return Ok(()) };
        source.begun = Instant::now();
        // Nobody could end an item that runs in this thread, nor try it again elsewhere; and a feed may be
        // empty while an item of it runs here.
        if self.engine.needs_workers() || self.input.feed().is_some() {
            return self.hand_over();
        }
        self.engine.begin_inline(self.input.remaining())?;
        if self.engine.runtime().workers_seen() {
            source.workers = Workers::Warm;
        }
        source.location = Location::Inline;
        Ok(())
    }

    /// The consumer takes more than single items.
    pub(crate) fn only_portions(&mut self) {
        if let Some(source) = &mut self.inline_source {
            source.singly = false;
        }
    }

    /// Returns an inline result, or runs more items; hands over to workers when that is worth it.
    fn next_inline(&mut self) -> Step<R> {
        loop {
            let Some(source) = &mut self.inline_source else { return Step::Workers };
            source.index += u64::from(self.engine.report.count_inline());
            if !source.results.is_empty() {
                let results = std::mem::take(&mut source.results);
                source.index += results.len() as u64;
                self.made = Made { results: results.into_iter(), end: source.index };
                if let Some((index, result)) = self.made.next() {
                    self.engine.report.read(1);
                    return Step::Answer(Ok((index, Ok(result))));
                }
            }
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
                self.engine.report.tick(self.engine.current.read());
                self.engine.report.set_inline_budget(STRETCH);
                let index = source.index;
                if let Some(result) = self.call() {
                    return Step::Answer(Ok((index, Ok(result))));
                }
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
                runtime.see_workers();
            }
        }
        let places = runtime.settings().local_processes.min(cores());
        match source.pace.choose(self.input.size_hint(), places, source.workers) {
            Choice::Stay => Ok(false),
            Choice::WarmUp => {
                match WarmUp::new(&runtime, places) {
                    Ok(warm_up) => (source.warm_up, source.workers) = (Some(warm_up), Workers::Starting),
                    Err(error) => {
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
        // The caution was measured with the function's time in it.
        self.caution = Caution::new();
        let now = source.now();
        let items = source.index - source.from;
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
        self.engine.switch_to_workers(source.index, (items > 0).then(|| source.pace.item()), context);
        Ok(())
    }

    /// Checks from time to time whether it was right to hand over.
    fn check_regression(&mut self) {
        let Some(source) = &mut self.inline_source else { return };
        // What ends workers must not come near this process.
        if self.engine.needs_workers() || self.engine.report.has_deaths() || self.failure.is_some() {
            return;
        }
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
        source.workers = Workers::Ready;
        (source.since, source.from) = (source.now(), source.index);
    }
}

/// The calling thread's side of the engine.
impl MapEngine {
    /// Whether the map asks for what comes with workers: items that are ended, tried again or recorded.
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
    /// As with a run: what can't work for many items is not to work for a few.
    fn begin_inline(&mut self, items: Option<u64>) -> Result<(), Error> {
        self.remaining = items;
        self.report.begin(self.label.as_deref(), &self.function.name, items)?;
        self.runtime.backend()?;
        self.report.backend("in the calling thread");
        self.run_inline();
        Ok(())
    }

    /// All items before `index` are answered; one took so many seconds. The next ones go to a run.
    fn switch_to_workers(&mut self, index: u64, item: Option<f64>, context: Context) {
        self.leave_inline();
        self.paused_by_budget = false;
        self.pulled = index;
        self.reorder_buffer.resume_at(index);
        self.context = Some(Box::new(move || Ok(context)));
        if let Some(item) = item {
            self.planner.measured(item);
        }
    }

    /// Reads nothing more until all is answered.
    fn pause_input(&mut self) {
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

    /// All is answered: ends the run. The index to go on at.
    fn switch_to_inline(&mut self) -> u64 {
        self.close_run();
        self.resume_input();
        self.job = JobId::next();
        self.pulled
    }
}
