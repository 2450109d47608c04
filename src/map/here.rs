//! The calling thread as a place for items: what the option `inline` adds to a map.
//! Called by the adapter where it has nothing to give out; `inline` decides, `callee` calls the function.
//!
//! Items are *here* or *away*, never both: the calling thread goes on alone while workers are started, then hands over at
//! an index and waits like any map; where workers are not worth their cost, no more is read until all that was read is
//! answered, and the calling thread goes on at that index. So order, windows and budgets need to know nothing of it.

use std::time::{Duration, Instant};
use std::vec::IntoIter;

use serde::de::DeserializeOwned;

use fastmap_backends::{Context, JobId};

use super::asked::Asked;
use super::callee::{Callee, Stopped};
use super::caution::Caution;
use super::drive::{Drive, Reading};
use super::inline::{Choice, Pace, Slower, Watch, Workers};
use super::input::Prospect;
use super::{Advance, Fastmap};
use crate::config::FastmapConfig;
use crate::error::{Error, ErrorKind};
use crate::settings::cores;

/// Single calls between two looks at the clock, and what one may take, with what the consumer does between them.
const STRETCH: u32 = 2048;
const SLOW: Duration = Duration::from_nanos(300);

/// Results of a portion that the consumer has not taken yet.
#[derive(Debug)]
pub(crate) struct Made<R> {
    results: IntoIter<R>,
    /// Index behind the last one.
    end: u64,
}

impl<R> Made<R> {
    pub(crate) fn none() -> Self {
        Made { results: Vec::new().into_iter(), end: 0 }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Option<(u64, R)> {
        let result = self.results.next()?;
        Some((self.end - self.results.len() as u64 - 1, result))
    }

    pub(crate) fn left(&self) -> usize {
        self.results.len()
    }
}

/// Who has the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing has begun.
    Unknown,
    Here,
    Away,
    /// Away, and to come back when all is answered.
    Returning,
}

/// The calling thread's part of a map.
pub(crate) struct Here<I, R> {
    callee: Box<dyn Callee<I, R>>,
    place: Place,
    /// Index of the next item that is pulled here, less what stands in `results` and `panicked`.
    index: u64,
    /// What was made and not handed out: the input may have panicked behind it.
    results: Vec<R>,
    /// The item behind `results` did so.
    panicked: Option<String>,
    pace: Pace,
    /// Items that are too cheap for workers may be called for one by one.
    singly: bool,
    /// When single calls were granted, if the last items were called so.
    granted: Option<Instant>,
    /// Since when the map is where it is, in seconds since `begun`, and from which item on.
    since: f64,
    from: u64,
    begun: Instant,
    watch: Watch,
    /// What is known of the workers, and the run that asks them.
    workers: Workers,
    asked: Option<Asked>,
}

/// What the calling thread has for the adapter.
pub(crate) enum Turn<R> {
    Answer(Advance<R>),
    End,
    /// It is the workers' turn.
    Away,
}

impl<I, R> Here<I, R> {
    pub(crate) fn new(callee: Box<dyn Callee<I, R>>) -> Box<Self> {
        Box::new(Here {
            callee,
            place: Place::Unknown,
            index: 0,
            results: Vec::new(),
            panicked: None,
            pace: Pace::default(),
            singly: true,
            granted: None,
            since: 0.0,
            from: 0,
            begun: Instant::now(),
            watch: Watch::new(),
            workers: Workers::Cold,
            asked: None,
        })
    }

    /// Answers that are ready and not with the adapter.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.results.len() + usize::from(self.panicked.is_some())
    }

    /// The next item's result, if the function does not panic and there is one.
    #[inline]
    pub(crate) fn call(&mut self, input: &mut Option<I>) -> Option<R> {
        self.callee.call_one(input, &mut self.panicked)
    }

    /// Whether the next items are to be called for one by one: they are cheap, and those before were, as far as the
    /// clock tells what is theirs and what the consumer's.
    fn calls_singly(&mut self) -> bool {
        if !self.singly || !self.pace.is_cheap() {
            return false;
        }
        let now = Instant::now();
        let before = self.granted.replace(now);
        if before.is_some_and(|before| now - before > SLOW * STRETCH) {
            self.granted = None;
        }
        self.granted.is_some()
    }

    fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

impl<I: Iterator, R: DeserializeOwned> Fastmap<I, R> {
    /// What to do where nothing is left to give out.
    pub(super) fn turn(&mut self) -> Turn<R> {
        let Some(here) = &mut self.here else { return Turn::Away };
        match here.place {
            Place::Here => self.work(),
            Place::Unknown => match self.settle() {
                Ok(()) => self.turn(),
                Err(error) => {
                    self.fail(error);
                    self.here = None;
                    Turn::Away
                }
            },
            Place::Away => {
                self.look();
                Turn::Away
            }
            Place::Returning => {
                if self.drive.report.has_deaths() {
                    here.place = Place::Away;
                    self.drive.read_on();
                    return Turn::Away;
                }
                if self.failure.is_some() || !self.drive.is_drained() {
                    return Turn::Away;
                }
                self.come_back();
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
        if self.drive.needs_workers() || self.input.feed().is_some() {
            return self.leave();
        }
        self.drive.begin_here(self.input.remaining())?;
        if self.drive.config().workers_seen() {
            here.workers = Workers::Warm;
        }
        here.place = Place::Here;
        Ok(())
    }

    /// The consumer takes more than single items.
    pub(super) fn only_portions(&mut self) {
        if let Some(here) = &mut self.here {
            here.singly = false;
        }
    }

    /// Gives out what was made, or makes more; leaves when that is worth it.
    fn work(&mut self) -> Turn<R> {
        loop {
            let Some(here) = &mut self.here else { return Turn::Away };
            here.index += u64::from(self.drive.report.count_singles());
            if !here.results.is_empty() {
                let results = std::mem::take(&mut here.results);
                here.index += results.len() as u64;
                self.made = Made { results: results.into_iter(), end: here.index };
                if let Some((index, result)) = self.made.next() {
                    self.drive.report.read(1);
                    return Turn::Answer(Ok((index, Ok(result))));
                }
            }
            if let Some(message) = here.panicked.take() {
                let error = Error::new(ErrorKind::Panic, message).at(here.index);
                here.index += 1;
                self.drive.report.read(1);
                let error = self.drive.report.failed(error);
                return Turn::Answer(Ok((here.index - 1, Err(error))));
            }
            if self.drive.input_ended() {
                self.drive.end();
                return Turn::End;
            }
            if here.calls_singly() {
                self.drive.report.tick(self.drive.current.read());
                self.drive.report.grant(STRETCH);
                let index = here.index;
                if let Some(result) = self.call() {
                    return Turn::Answer(Ok((index, Ok(result))));
                }
                if self.input.iterator().is_none() {
                    self.drive.end_input();
                }
                continue;
            }
            if here.workers == Workers::Asked || here.pace.has_evidence(here.workers) {
                match self.choose() {
                    Ok(false) => {}
                    Ok(true) => return Turn::Away,
                    Err(error) => {
                        self.fail(error);
                        self.here = None;
                        return Turn::Away;
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
        let stopped = here.callee.call(self.input.iterator(), &mut here.results, &portion);
        let time = begun.elapsed();
        match stopped {
            Stopped::Full => {}
            Stopped::Panicked(message) => here.panicked = Some(message),
            Stopped::End => self.drive.end_input(),
        }
        let items = here.held() as u32;
        self.caution.pulled(items, time);
        here.pace.observe(items, time);
        self.drive.report.done_here(here.index, items, time, self.drive.current.read());
    }

    /// Leaves if that is worth it (`true`), or asks for workers if it will be.
    fn choose(&mut self) -> Result<bool, Error> {
        let Some(here) = &mut self.here else { return Ok(true) };
        let config = self.drive.config();
        if let Some(asked) = &mut here.asked {
            match asked.answered() {
                None => return Ok(false),
                Some(answer) => here.workers = answer,
            }
            here.asked = None;
            if here.workers == Workers::Ready {
                config.see_workers();
            }
        }
        let places = config.settings().local_processes.min(cores());
        match here.pace.choose(self.input.size_hint(), places, here.workers) {
            Choice::Stay => Ok(false),
            Choice::Ask => {
                match Asked::new(&config, places) {
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
        let (answered, worked) = self.drive.report.by_workers();
        here.watch.leave((now - here.since) / items.max(1) as f64, now, answered, worked.as_secs_f64());
        here.since = now;
        let context = here.callee.context()?;
        self.drive.report.moves(here.index, "workers");
        self.drive.leave_here(here.index, (items > 0).then(|| here.pace.item()), context);
        Ok(())
    }

    /// Asks from time to time whether it was right to leave.
    fn look(&mut self) {
        let Some(here) = &mut self.here else { return };
        // What ends workers must not come near this process.
        if self.drive.needs_workers() || self.drive.report.has_deaths() || self.failure.is_some() {
            return;
        }
        let now = here.now();
        let (answered, worked) = self.drive.report.by_workers();
        let places = self.drive.config().settings().local_processes.min(cores());
        if let Some(Slower { each }) = here.watch.look(now, answered, worked.as_secs_f64(), places) {
            here.place = Place::Returning;
            here.pace.back(each, now - here.since);
            self.drive.hold();
        }
    }

    /// All that was read is answered: goes on in this thread.
    fn come_back(&mut self) {
        let Some(here) = &mut self.here else { return };
        here.index = self.drive.come_here();
        self.drive.report.moves(here.index, "the calling thread");
        here.place = Place::Here;
        here.workers = Workers::Ready;
        (here.since, here.from) = (here.now(), here.index);
    }
}

/// The calling thread's side of the drive.
impl Drive {
    /// Whether the map asks for what comes with workers: items that are ended, tried again or recorded.
    fn needs_workers(&self) -> bool {
        self.item_timeout.is_some()
            || self.limits.cancel_running()
            || self.tries.retries > 0
            || self.checkpoint.is_wanted()
    }

    fn config(&self) -> FastmapConfig {
        self.config.clone()
    }

    /// Begins the map without a run.
    ///
    /// # Errors
    /// As with a run: what can't work for many items is not to work for a few.
    fn begin_here(&mut self, items: Option<u64>) -> Result<(), Error> {
        self.remaining = items;
        self.report.begin(self.label.as_deref(), &self.function.name, items)?;
        self.config.backend()?;
        self.report.backend("in the calling thread");
        self.here = true;
        Ok(())
    }

    /// All items before `index` are answered; one took so many seconds. The next ones go to a run.
    fn leave_here(&mut self, index: u64, item: Option<f64>, context: Context) {
        self.here = false;
        self.resting = false;
        self.pulled = index;
        self.window.resume_at(index);
        self.context = Some(Box::new(move || Ok(context)));
        if let Some(item) = item {
            // What is known need not be found out again, from one item on.
            self.seen.item_time = Some(Duration::from_secs_f64(item));
            self.last_size = ((1e-3 / item.max(1e-9)) as u32).max(1);
        }
    }

    /// Reads nothing more until all is answered.
    fn hold(&mut self) {
        if self.reading == Reading::On {
            self.reading = Reading::Held;
        }
    }

    /// Takes [`hold`](Drive::hold) back.
    fn read_on(&mut self) {
        if self.reading == Reading::Held {
            self.reading = Reading::On;
        }
    }

    /// All is answered: ends the run. The index to go on at.
    fn come_here(&mut self) -> u64 {
        if let Some(run) = self.run.take() {
            run.close();
        }
        self.read_on();
        self.job = JobId::next();
        self.here = true;
        self.pulled
    }
}
