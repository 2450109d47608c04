//! The calling thread as a place for items: what the option `inline` adds to a map.
//! Called by the adapter where it has nothing to give out; `inline` decides, `function` calls the function.
//!
//! Items are *here* or *away*, never both: the calling thread goes on alone while workers are started, then hands over at
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
use crate::map::inline::state::{Made, Place, STRETCH, Step};
use crate::map::inline::warm_up::WarmUp;
use crate::map::input::Prospect;
use crate::map::read_pacing::Caution;
use crate::runtime::Runtime;
use crate::settings::cores;

impl<I: Iterator, R: DeserializeOwned> Fastmap<I, R> {
    /// What to do where nothing is left to give out.
    pub(crate) fn turn(&mut self) -> Step<R> {
        let Some(here) = &mut self.here else { return Step::Away };
        match here.place {
            Place::Here => self.work(),
            Place::Unknown => match self.settle() {
                Ok(()) => self.turn(),
                Err(error) => {
                    self.fail(error);
                    self.here = None;
                    Step::Away
                }
            },
            Place::Away => {
                self.look();
                Step::Away
            }
            Place::Returning => {
                if self.engine.report.has_deaths() {
                    here.place = Place::Away;
                    self.engine.resume_input();
                    return Step::Away;
                }
                if self.failure.is_some() || !self.engine.is_drained() {
                    return Step::Away;
                }
                self.return_to_workers();
                self.work()
            }
        }
    }

    /// The map begins, in this thread if that is allowed.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(here) = &mut self.here else { return Ok(()) };
        here.begun = Instant::now();
        // Nobody could end an item that runs in this thread, nor try it again elsewhere; and a feed may be
        // empty while an item of it runs here.
        if self.engine.needs_workers() || self.input.feed().is_some() {
            return self.leave();
        }
        self.engine.begin_here(self.input.remaining())?;
        if self.engine.runtime().workers_seen() {
            here.workers = Workers::Warm;
        }
        here.place = Place::Here;
        Ok(())
    }

    /// The consumer takes more than single items.
    pub(crate) fn only_portions(&mut self) {
        if let Some(here) = &mut self.here {
            here.singly = false;
        }
    }

    /// Gives out what was made, or makes more; leaves when that is worth it.
    fn work(&mut self) -> Step<R> {
        loop {
            let Some(here) = &mut self.here else { return Step::Away };
            here.index += u64::from(self.engine.report.count_inline());
            if !here.results.is_empty() {
                let results = std::mem::take(&mut here.results);
                here.index += results.len() as u64;
                self.made = Made { results: results.into_iter(), end: here.index };
                if let Some((index, result)) = self.made.next() {
                    self.engine.report.read(1);
                    return Step::Answer(Ok((index, Ok(result))));
                }
            }
            if let Some(message) = here.panicked.take() {
                let error = Error::new(ErrorKind::Panic, message).at(here.index);
                here.index += 1;
                self.engine.report.read(1);
                let error = self.engine.report.failed(error);
                return Step::Answer(Ok((here.index - 1, Err(error))));
            }
            if self.engine.input_ended() {
                self.engine.end();
                return Step::End;
            }
            if here.calls_singly() {
                self.engine.report.tick(self.engine.current.read());
                self.engine.report.grant(STRETCH);
                let index = here.index;
                if let Some(result) = self.call() {
                    return Step::Answer(Ok((index, Ok(result))));
                }
                if self.input.iterator().is_none() {
                    self.engine.end_input();
                }
                continue;
            }
            if here.workers == Workers::Asked || here.pace.has_evidence(here.workers) {
                match self.choose() {
                    Ok(false) => {}
                    Ok(true) => return Step::Away,
                    Err(error) => {
                        self.fail(error);
                        self.here = None;
                        return Step::Away;
                    }
                }
            }
            self.make();
        }
    }

    /// Does one portion.
    fn make(&mut self) {
        let Some(here) = &mut self.here else { return };
        let mut portion = here.pace.portion(size_of::<R>());
        let prospect = self.input.prospect();
        if self.caution.is_on(prospect == Prospect::Promised) {
            // The input may wait for a result of this portion.
            portion.items = 1;
        }
        let begun = Instant::now();
        let stopped = here.inline_fn.call(self.input.iterator(), &mut here.results, &portion);
        let time = begun.elapsed();
        match stopped {
            Stopped::Full => {}
            Stopped::Panicked(message) => here.panicked = Some(message),
            Stopped::End => self.engine.end_input(),
        }
        let items = here.held() as u32;
        self.caution.pulled(items, time);
        here.pace.observe(items, time);
        self.engine.report.done_here(here.index, items, time, self.engine.current.read());
    }

    /// Leaves if that is worth it (`true`), or asks for workers if it will be.
    fn choose(&mut self) -> Result<bool, Error> {
        let Some(here) = &mut self.here else { return Ok(true) };
        let runtime = self.engine.runtime();
        if let Some(asked) = &mut here.asked {
            match asked.answered() {
                None => return Ok(false),
                Some(answer) => here.workers = answer,
            }
            here.asked = None;
            if here.workers == Workers::Ready {
                runtime.see_workers();
            }
        }
        let places = runtime.settings().local_processes.min(cores());
        match here.pace.choose(self.input.size_hint(), places, here.workers) {
            Choice::Stay => Ok(false),
            Choice::Ask => {
                match WarmUp::new(&runtime, places) {
                    Ok(asked) => (here.asked, here.workers) = (Some(asked), Workers::Asked),
                    Err(error) => {
                        log::info!("staying in the calling thread: {error}");
                        here.workers = Workers::Refused;
                    }
                }
                Ok(false)
            }
            Choice::Leave => self.leave().map(|()| true),
        }
    }

    /// Hands the items from here on to workers.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(here) = &mut self.here else { return Ok(()) };
        here.place = Place::Away;
        here.asked = None;
        // What took long here may have been the function.
        self.caution = Caution::new();
        let now = here.now();
        let items = here.index - here.from;
        let (answered, worked) = self.engine.report.by_workers();
        here.watch.leave((now - here.since) / items.max(1) as f64, now, answered, worked.as_secs_f64());
        here.since = now;
        let context = here.inline_fn.context()?;
        self.engine.report.moves(here.index, "workers");
        self.engine.switch_to_workers(here.index, (items > 0).then(|| here.pace.item()), context);
        Ok(())
    }

    /// Asks from time to time whether it was right to leave.
    fn look(&mut self) {
        let Some(here) = &mut self.here else { return };
        // What ends workers must not come near this process.
        if self.engine.needs_workers() || self.engine.report.has_deaths() || self.failure.is_some() {
            return;
        }
        let now = here.now();
        let (answered, worked) = self.engine.report.by_workers();
        let places = self.engine.runtime().settings().local_processes.min(cores());
        if let Some(Slower { each }) = here.watch.look(now, answered, worked.as_secs_f64(), places) {
            here.place = Place::Returning;
            here.pace.back(each, now - here.since);
            self.engine.pause_input();
        }
    }

    /// All that was read is answered: goes on in this thread.
    fn return_to_workers(&mut self) {
        let Some(here) = &mut self.here else { return };
        here.index = self.engine.switch_to_inline();
        self.engine.report.moves(here.index, "the calling thread");
        here.place = Place::Here;
        here.workers = Workers::Ready;
        (here.since, here.from) = (here.now(), here.index);
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
    fn begin_here(&mut self, items: Option<u64>) -> Result<(), Error> {
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
