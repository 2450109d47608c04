//! The iterator of results over an iterator of items.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::error::{Error, ErrorKind};
use crate::map::engine::MapEngine;
use crate::map::inline::function::InlineFn;
use crate::map::inline::state::{InlineSource, Made, Step};
use crate::map::input::{Input, Prospect};
use crate::map::poll_pacing::PollPacer;
use crate::map::read_pacing::Caution;
use crate::map::results::{Advance, Answer, Indexed};

/// An iterator that maps `iterable` by a function in worker processes.
///
/// Made by [`fastmap`](crate::fastmap()) and the methods of [`FastmapConfig`](crate::FastmapConfig). Lazy:
/// nothing is read, and no process is started, before the first `next()`. Results come in the order of the
/// input, which is read inside `next()` alone, in batches, a bounded number of items ahead of what was
/// yielded.
///
/// **An input that waits** (for a pipe, a channel, a lock) holds up `next()`: results that are finished
/// meanwhile are yielded when the input continues. Before a map pulls from an input that has waited once, it
/// yields the results that it has, and waits a moment for those that are about to be finished. An input that
/// waits for a result of its own map may still wait for ever. [`feed()`](crate::feed()) makes inputs in which
/// a map never waits.
///
/// Each item is answered exactly once, by `Ok` or by one `Err` in its place, after which the map goes on. It
/// may be *executed* more than once if a worker died. What ends the map as a whole (no worker can live, the
/// system refuses, no credits are left) is yielded as one `Err` without an index, then `None`. Results that
/// were paid for come before it, each in its place; earlier items without a result are answered by errors
/// with their index. [`on_error`](Fastmap::on_error) and [`deadline`](Fastmap::deadline) end a map sooner.
///
/// Dropping it cancels what is queued; the workers stay for the next map.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// // An input without an end: no more of it is read than workers need.
/// let mut squares = fastmap::fastmap(|n: u64| n * n, 0..);
/// assert_eq!(squares.next().unwrap()?, 0);
/// assert_eq!(squares.nth(9).unwrap()?, 100);
/// # Ok::<(), fastmap::Error>(())
/// ```
#[must_use = "a map is lazy and does nothing until it is consumed"]
pub struct Fastmap<I, R>
where
    I: Iterator,
{
    pub(crate) input: Input<I>,
    pub(crate) engine: MapEngine,
    poll_pacer: PollPacer,
    pub(crate) caution: Caution,
    /// Results of the calling thread.
    pub(crate) made: Made<R>,
    /// The calling thread's part, with the option `inline`.
    pub(crate) inline_source: Option<Box<InlineSource<I, R>>>,
    /// The error that ends the map, after the results that have arrived.
    pub(crate) failure: Option<Error>,
}

impl<I, R> Fastmap<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    /// For items that are encoded as they are.
    pub(crate) fn by_value(input: I, engine: MapEngine) -> Self
    where
        I::Item: Serialize + DeserializeOwned,
    {
        Fastmap::new(Input::by_value(input), engine)
    }

    /// For items that are references: their targets are encoded.
    pub(crate) fn by_ref<'a, T>(input: I, engine: MapEngine) -> Self
    where
        I: Iterator<Item = &'a T>,
        T: Serialize + DeserializeOwned + 'a,
    {
        Fastmap::new(Input::by_ref(input), engine)
    }

    fn new(input: Input<I>, engine: MapEngine) -> Self {
        Fastmap {
            input,
            engine,
            poll_pacer: PollPacer::new(),
            caution: Caution::new(),
            made: Made::none(),
            inline_source: None,
            failure: None,
        }
    }

    /// Lets the calling thread take items.
    pub(crate) fn inline(mut self, inline_fn: impl InlineFn<I, R> + 'static) -> Self {
        self.inline_source = Some(InlineSource::new(Box::new(inline_fn)));
        self
    }

    #[inline]
    fn next_single(&mut self) -> Option<Result<R, Error>> {
        match self.call() {
            Some(result) => Some(Ok(result)),
            None => match self.next_slow()? {
                Ok((_, result)) => Some(result),
                Err(error) => Some(Err(error)),
            },
        }
    }

    /// Calls the function for the next item.
    #[inline]
    pub(crate) fn call(&mut self) -> Option<R> {
        let result = self.inline_source.as_mut()?.call(self.input.iterator())?;
        // The only number that is counted: a second counter in memory is felt where an item is a square root.
        // `next_inline` derives the index from it.
        self.engine.report.inline_budget -= 1;
        Some(result)
    }

    /// The next answer that the calling thread has made.
    #[inline]
    pub(crate) fn next_made(&mut self) -> Option<Indexed<R>> {
        let (index, result) = self.made.next()?;
        self.engine.report.read(1);
        Some((index, Ok(result)))
    }

    /// The next answer of the current result chunk, if it is a result and no look at the workers is due.
    #[inline]
    pub(crate) fn next_fast(&mut self) -> Option<Result<R, Error>> {
        let bytes = self.engine.current.next_fast(codec::stride::<R>())?;
        Some(codec::get(bytes).map_err(|error| self.unreadable(error)))
    }

    /// A result that was read last and can't be decoded.
    #[cold]
    fn unreadable(&mut self, error: CodecError) -> Error {
        // Minus one, because `read` counts this result already.
        let index = self.engine.current.first() + u64::from(self.engine.current.read()) - 1;
        let error = Error::new(ErrorKind::Serialize, error.to_string()).with_source(error).at(index);
        let error = self.engine.report.failed(error);
        // Only decoding finds this failure; `deliver` handles those that workers report.
        if self.engine.limits.stops() {
            self.engine.end_here();
        }
        error
    }

    /// Decodes and returns the next answer of the current result chunk.
    pub(crate) fn answer(&mut self) -> Option<Indexed<R>> {
        let (index, answer) = self.engine.current.next()?;
        let error = match answer {
            Answer::Result(bytes) => match codec::get(bytes) {
                Ok(result) => return Some((index, Ok(result))),
                Err(error) => return Some((index, Err(self.unreadable(error)))),
            },
            Answer::Failed(error) => error,
            Answer::Missing => {
                let message = "the worker sent fewer results than it ran items";
                Error::new(ErrorKind::Serialize, message).at(index)
            }
        };
        // `deliver` takes failures out of the chunks of a map that stops at one: what stops it here is a
        // missing result.
        let error = self.engine.report.failed(error);
        if self.engine.limits.stops() {
            self.engine.end_here();
        }
        Some((index, Err(error)))
    }

    /// The next answer, after a look at the workers: those that have room get their next batch.
    // Cold, so that the loop of a quick consumer keeps its own state in registers.
    #[cold]
    #[inline(never)]
    pub(crate) fn advance(&mut self) -> Option<Advance<R>> {
        // Before all else: a look costs much beside an item that was made here.
        if let Some(answer) = self.next_made() {
            return Some(Ok(answer));
        }
        // Late maps as well, because `refill` is where the deadline ends a map.
        if (self.engine.can_submit() || self.engine.is_late())
            && let Err(error) = self.refill()
        {
            self.fail(error);
        }
        let answer = match self.answer() {
            Some(answer) => Ok(answer),
            None => self.next_slow()?,
        };
        let answers = self.poll_pacer.next();
        if answers == 1 {
            // Elsewhere progress is reported when a chunk ends and in waits, which a slow consumer may never
            // see.
            self.engine.tick();
        }
        self.engine.current.allow(answers - 1);
        Some(answer)
    }

    /// The next answer when the current result chunk is used up.
    fn next_slow(&mut self) -> Option<Advance<R>> {
        if self.engine.has_ended() {
            return None;
        }
        loop {
            match self.inline_step() {
                Step::Answer(answer) => return Some(answer),
                Step::End => return None,
                Step::Workers => {}
            }
            self.engine.next_chunk();
            self.engine.tick();
            if let Some(answer) = self.answer() {
                return Some(Ok(answer));
            }
            // After the chunks that can be delivered: results that arrived before the failure come first.
            if let Some(error) = self.failure.take() {
                self.engine.end();
                return Some(Err(error));
            }
            match self.refill_or_wait() {
                Ok(true) => {}
                Ok(false) => {
                    self.engine.end();
                    return None;
                }
                Err(error) => self.fail(error),
            }
        }
    }

    /// Reads and sends what it can, then waits for an answer if none can be given. `Ok(false)`: the map is
    /// over.
    fn refill_or_wait(&mut self) -> Result<bool, Error> {
        self.refill()?;
        if self.engine.is_complete() {
            // Before `None`, after which a write that failed could not be reported any more.
            self.engine.checkpoint.close()?;
            return Ok(false);
        }
        if self.engine.reorder_buffer.has_next() {
            return Ok(true);
        }
        // Only a feed can say that it is empty, and is waited for together with the run.
        if self.engine.reads_on() && self.input.prospect() == Prospect::Later {
            let feed = self.input.feed().map(Arc::clone);
            self.engine.wait_for_run_or_feed(feed.as_deref())?;
        } else {
            self.engine.wait()?;
        }
        Ok(true)
    }

    /// Ends the map with `error`, which comes after the answers that have arrived: up to the first gap, or
    /// all of them if they were paid for.
    pub(crate) fn fail(&mut self, error: Error) {
        self.engine.report.ended_by(error.kind());
        self.engine.stop();
        // The service answers, and charges for, batches in another order than they were sent. Without errors
        // in the gaps, paid results after the first gap would be lost.
        let paid =
            matches!(error.kind(), ErrorKind::OutOfCredits | ErrorKind::Cloud | ErrorKind::Unauthorized);
        // A map that stops at a failure promises only the results before the first gap.
        if paid && !self.engine.limits.stops() {
            self.engine.reorder_buffer.fill_gaps(error.kind());
        }
        self.failure = Some(error);
    }

    /// Reads and sends as much as there are places for.
    fn refill(&mut self) -> Result<(), Error> {
        let remaining = self.input.remaining();
        self.engine.begin(remaining)?;
        // First, because answers free places and bytes, and a failure ends the map before more is read.
        self.engine.collect()?;
        while let Some(mut plan) = self.engine.plan() {
            // Asked before each pull, because other threads fill a feed meanwhile.
            let prospect = self.input.prospect();
            let careful = match prospect {
                // No item is pulled. Items that were pulled before the input panicked are sent all the same.
                Prospect::Later => {
                    plan.items = 0;
                    false
                }
                Prospect::Fed(items) => {
                    plan.items = plan.items.min(items);
                    false
                }
                Prospect::Promised | Prospect::Unknown => self.caution.is_on(prospect == Prospect::Promised),
            };
            if careful {
                // An input that may wait is not pulled while the consumer could have a result instead.
                if self.has_ready() {
                    break;
                }
                let patience = self.caution.patience(self.engine.planner.item_time());
                if self.engine.awaits_completions() && !patience.is_zero() {
                    // While workers start no item could run, so that the wait costs the map nothing.
                    let starting = !self.engine.is_ready();
                    let waited = self.engine.wait_for(patience)?;
                    if !starting {
                        self.caution.waited(waited);
                    }
                    // The wait may have changed places, budget and sizes: it needs a new plan.
                    continue;
                }
                plan.items = 1;
            }
            let size = self.engine.planner.latest_items();
            let pulled = self.input.pull(self.engine.builder(), &plan);
            self.caution.pulled(plan.items, pulled.longest);
            self.engine.report.pulled(pulled.time);
            self.engine.pulled(pulled.how, self.input.remaining())?;
            // The next plan would be the same, as nothing was pulled: the loop would not end.
            if prospect == Prospect::Later {
                break;
            }
            if careful {
                // Caution made this batch a single item, which says nothing of the size of the next one.
                self.engine.planner.grow_from(size);
            }
            // Before the next plan, whose size follows from answers. Without this, workers as quick as the
            // host kept places free, and batches stayed at one item as long as that lasted.
            self.engine.collect()?;
            // A slow input may be slow again: results that are ready go to the consumer first.
            if pulled.slow && self.has_ready() {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is an answer to give.
    fn has_ready(&self) -> bool {
        self.engine.current.left() > 0 || self.engine.reorder_buffer.has_next()
    }

    /// Answers that are at hand, without a look at the workers.
    pub(crate) fn left(&self) -> usize {
        self.made.left() + self.engine.current.left() as usize
    }

    fn hint(&self) -> (usize, Option<usize>) {
        if self.engine.has_ended() {
            return (0, Some(0));
        }
        let read = usize::try_from(self.engine.undelivered()).unwrap_or(usize::MAX);
        let inline = self.inline_source.as_ref().map_or(0, |source| source.undelivered());
        let read = read.saturating_add(self.left() + inline);
        let (low, high) = if self.engine.input_ended() { (0, Some(0)) } else { self.input.size_hint() };
        (low.saturating_add(read), high.and_then(|high| high.checked_add(read)))
    }
}

impl<I, R> Iterator for Fastmap<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    type Item = Result<R, Error>;

    // Always inlined: in the consumer's loop it costs nothing to distinguish items of workers from those of
    // this thread. As a call, a square root in this thread took 1.9 times as long as by `map`; inlined, 1.2
    // times.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.engine.report.inline_budget > 0 {
            return self.next_single();
        }
        if let Some(result) = self.next_fast() {
            return Some(result);
        }
        match self.advance()? {
            Ok((_, result)) => Some(result),
            Err(error) => Some(Err(error)),
        }
    }

    /// As `map` gives it. A map that ends early (no worker can live) yields fewer.
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.hint()
    }
}

impl<I: Iterator, R: DeserializeOwned> FusedIterator for Fastmap<I, R> {}

impl<I: Iterator, R> fmt::Debug for Fastmap<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fastmap").field("label", &self.engine.label).finish_non_exhaustive()
    }
}
