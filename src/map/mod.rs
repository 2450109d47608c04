//! The adapter: an iterator of results over an iterator of items.
//!
//! The way of one item: `input` pulls and encodes it, `drive` sends its batch and takes the answer, `window` puts it
//! in order, `segment` gives it out, and `next()` here decodes it. `retry` decides about what was lost, `stretch` how often
//! `next()` looks at more than the segment.

mod batches;
mod drive;
mod input;
mod retry;
mod segment;
mod stretch;
mod unordered;
mod window;

use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use batches::Batches;
pub use unordered::Unordered;

use crate::codec::{self, CodecError};
use crate::error::{Error, ErrorKind};
pub(crate) use drive::{Context, Drive};
use input::Input;
use segment::Answer;
#[cfg(fuzzing)]
pub(crate) use segment::Segment;
use stretch::Stretch;

/// The answer to the item of that index.
type Indexed<R> = (u64, Result<R, Error>);
/// The next answer, or what ends the map.
type Advance<R> = Result<Indexed<R>, Error>;

/// An iterator that maps `iterable` by a function in worker processes.
///
/// Made by [`fastmap`](crate::fastmap()) and the methods of [`FastmapConfig`](crate::FastmapConfig). Lazy: nothing
/// is read, and no process is started, before the first `next()`. Results come in the order of the input, which is read inside
/// `next()` alone, in batches, a bounded number of items ahead of what was yielded.
///
/// Each item is answered exactly once, by `Ok` or by one `Err` in its place, after which the map goes on. It may be *executed*
/// more than once, where a worker died. What ends the map as a whole (no worker can live, the system refuses) is
/// yielded as one `Err` without an index, then `None`.
///
/// Dropping it cancels what is queued; the workers stay for the next map.
#[must_use = "a map is lazy and does nothing until it is consumed"]
pub struct Fastmap<I, R>
where
    I: Iterator,
{
    input: Input<I>,
    drive: Drive,
    stretch: Stretch,
    /// What ends the map, once all that is here is delivered.
    failure: Option<Error>,
    results: PhantomData<fn() -> R>,
}

impl<I, R> Fastmap<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    /// For items that are encoded as they are.
    pub(crate) fn by_value(input: I, drive: Drive) -> Self
    where
        I::Item: Serialize,
    {
        Fastmap::new(Input::by_value(input), drive)
    }

    /// For items that are encoded as what they point to.
    pub(crate) fn by_ref<'a, T>(input: I, drive: Drive) -> Self
    where
        I: Iterator<Item = &'a T>,
        T: Serialize + 'a,
    {
        Fastmap::new(Input::by_ref(input), drive)
    }

    fn new(input: Input<I>, drive: Drive) -> Self {
        Fastmap { input, drive, stretch: Stretch::new(), failure: None, results: PhantomData }
    }

    /// Yields results in batches as they come from the workers: fewer, larger steps, in the same order.
    ///
    /// A batch with failed items yields its good runs as `Ok` and each failed item as one `Err`, in order.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// for batch in (0..1000u64).fastmap(|n| n * n).batches() {
    ///     println!("{} results", batch?.len());
    /// }
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn batches(self) -> Batches<I, R> {
        Batches::new(self)
    }

    /// Yields results as they are finished, each with the index of its item. What is slow holds up nothing else.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// for result in (0..100u64).fastmap(|n| n * n).unordered() {
    ///     let (index, square) = result?;
    ///     assert_eq!(square, (index * index) as u64);
    /// }
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn unordered(mut self) -> Unordered<I, R> {
        self.drive.window.set_unordered();
        Unordered::new(self)
    }

    /// Names the map, in log lines and in its closing line.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.drive.label = Some(label.into());
        self
    }

    /// An item that runs longer is answered by a [`Timeout`](ErrorKind::Timeout) error; its worker is ended and
    /// replaced, and no other item is harmed. It may run a twentieth longer. Time in which host and workers are
    /// stopped (Ctrl-Z) does not count. The `init` of `fastmap_init` has no limit.
    ///
    /// # Panics
    /// If `limit` is zero.
    pub fn item_timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "an item timeout of 0 leaves no item any time");
        self.drive.item_timeout = Some(limit);
        self
    }

    /// Whether a progress bar is shown, where stderr is a terminal. Overrides the verbosity.
    pub fn progress(mut self, show: bool) -> Self {
        self.drive.report.show_progress(show);
        self
    }

    /// The next answer of the current segment, if it is a result and no look at the workers is due.
    #[inline]
    fn quick(&mut self) -> Option<Result<R, Error>> {
        let bytes = self.drive.current.quick(codec::stride::<R>())?;
        Some(codec::get(bytes).map_err(|error| self.unreadable(error)))
    }

    /// A result that was read last and can't be decoded.
    #[cold]
    fn unreadable(&mut self, error: CodecError) -> Error {
        self.drive.report.failed();
        let index = self.drive.current.first() + u64::from(self.drive.current.read()) - 1;
        Error::new(ErrorKind::Serialize, error.to_string()).with_source(error).at(index)
    }

    /// Decodes and returns the next answer of the current segment.
    fn answer(&mut self) -> Option<Indexed<R>> {
        let (index, answer) = self.drive.current.next()?;
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
        self.drive.report.failed();
        Some((index, Err(error)))
    }

    /// The next answer, after a look at the workers: those that have room get their next batch.
    // Cold, so that the loop of a quick consumer keeps its own state in registers.
    #[cold]
    #[inline(never)]
    fn advance(&mut self) -> Option<Advance<R>> {
        if self.drive.hungry()
            && let Err(error) = self.refill()
        {
            self.fail(error);
        }
        let answer = match self.answer() {
            Some(answer) => Ok(answer),
            None => self.advance_slowly()?,
        };
        self.drive.current.allow(self.stretch.next() - 1);
        Some(answer)
    }

    /// Where the current segment has no more.
    fn advance_slowly(&mut self) -> Option<Advance<R>> {
        if self.drive.has_ended() {
            return None;
        }
        loop {
            self.drive.take();
            if let Some(answer) = self.answer() {
                return Some(Ok(answer));
            }
            if let Some(error) = self.failure.take() {
                self.drive.end();
                return Some(Err(error));
            }
            let progress = self.refill().and_then(|()| {
                if self.drive.is_complete() {
                    return Ok(false);
                }
                self.drive.wait()?;
                Ok(true)
            });
            match progress {
                Ok(true) => {}
                Ok(false) => {
                    self.drive.end();
                    return None;
                }
                Err(error) => self.fail(error),
            }
        }
    }

    /// The map can't go on. Answers that are here, up to the first gap, are delivered before the error.
    fn fail(&mut self, error: Error) {
        self.failure = Some(error);
        self.drive.stop();
    }

    /// Reads and sends as much as there are places for.
    fn refill(&mut self) -> Result<(), Error> {
        let remaining = self.input.remaining();
        self.drive.begin(remaining)?;
        self.drive.collect()?;
        while let Some(plan) = self.drive.plan() {
            let pulled = self.input.pull(self.drive.builder(), &plan);
            self.drive.pulled(pulled.how, self.input.remaining());
            // Before the next plan: what has come meanwhile says how large a batch should be.
            self.drive.collect()?;
            // What is ready goes to the consumer before a slow input is asked again.
            if pulled.slow && (self.drive.current.left() > 0 || self.drive.window.deliverable() > 0) {
                break;
            }
        }
        Ok(())
    }

    fn hint(&self) -> (usize, Option<usize>) {
        if self.drive.has_ended() {
            return (0, Some(0));
        }
        let held = self.drive.undelivered() + u64::from(self.drive.current.left());
        let held = usize::try_from(held).unwrap_or(usize::MAX);
        let (low, high) = if self.drive.input_ended() { (0, Some(0)) } else { self.input.size_hint() };
        (low.saturating_add(held), high.and_then(|high| high.checked_add(held)))
    }
}

impl<I, R> Iterator for Fastmap<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    type Item = Result<R, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(result) = self.quick() {
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
        f.debug_struct("Fastmap").field("label", &self.drive.label).finish_non_exhaustive()
    }
}
