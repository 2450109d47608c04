//! State of the calling thread as a source of results: what it has made, its pace, and where the map stands.

use std::time::{Duration, Instant};
use std::vec::IntoIter;

use crate::map::inline::function::InlineFn;
use crate::map::inline::policy::{RegressionCheck, Throughput, Workers};
use crate::map::inline::warm_up::WarmUp;
use crate::map::results::Advance;

/// Single calls between two looks at the clock, and the time that each may take, with that of the consumer
/// after it.
pub(crate) const STRETCH: u32 = 2048;

pub(crate) const SLOW: Duration = Duration::from_nanos(300);

/// Results of a portion that the consumer has not taken yet.
#[derive(Debug)]
pub(crate) struct Made<R> {
    pub(crate) results: IntoIter<R>,
    /// Index after the last one.
    pub(crate) end: u64,
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

/// Where the items run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// Nothing has begun.
    Unknown,
    Inline,
    Workers,
    /// In workers. The calling thread takes over when all items that were read are answered.
    Returning,
}

/// The calling thread's part of a map.
pub(crate) struct InlineSource<I, R> {
    pub(crate) inline_fn: Box<dyn InlineFn<I, R>>,
    pub(crate) location: Location,
    /// Index of the next item that the calling thread pulls, minus the answers in `results` and `panicked`.
    pub(crate) index: u64,
    /// Results that the adapter does not have yet: the input may have panicked after them.
    pub(crate) results: Vec<R>,
    /// The message, if the function panicked at the item after `results`.
    pub(crate) panicked: Option<String>,
    pub(crate) pace: Throughput,
    /// Items that are too cheap for workers may run one by one, without a portion.
    pub(crate) singly: bool,
    /// When single calls were granted last, if the latest items ran one by one.
    granted: Option<Instant>,
    /// When the map came to its present location, in seconds since `begun`, and its first item there.
    pub(crate) since: f64,
    pub(crate) from: u64,
    pub(crate) begun: Instant,
    pub(crate) regression: RegressionCheck,
    /// What is known of the workers, and the run that starts them.
    pub(crate) workers: Workers,
    pub(crate) warm_up: Option<WarmUp>,
}

/// What the calling thread has for the adapter.
pub(crate) enum Step<R> {
    Answer(Advance<R>),
    End,
    /// The next answers are those of workers.
    Workers,
}

impl<I, R> InlineSource<I, R> {
    pub(crate) fn new(inline_fn: Box<dyn InlineFn<I, R>>) -> Box<Self> {
        Box::new(InlineSource {
            inline_fn,
            location: Location::Unknown,
            index: 0,
            results: Vec::new(),
            panicked: None,
            pace: Throughput::default(),
            singly: true,
            granted: None,
            since: 0.0,
            from: 0,
            begun: Instant::now(),
            regression: RegressionCheck::new(),
            workers: Workers::Cold,
            warm_up: None,
        })
    }

    /// Answers that are ready and not with the adapter.
    #[inline]
    pub(crate) fn undelivered(&self) -> usize {
        self.results.len() + usize::from(self.panicked.is_some())
    }

    /// The next item's result, if the function does not panic and there is one.
    #[inline]
    pub(crate) fn call(&mut self, input: &mut Option<I>) -> Option<R> {
        self.inline_fn.call_one(input, &mut self.panicked)
    }

    /// Whether the next items run one by one: items are cheap, and so were those of the stretch before, as
    /// far as the clock can tell their time from the consumer's.
    pub(crate) fn calls_singly(&mut self) -> bool {
        if !self.singly || !self.pace.is_cheap() {
            return false;
        }
        let now = Instant::now();
        let before = self.granted.replace(now);
        // Either the consumer is slow or the items have become slower. The next portion measures items alone.
        if before.is_some_and(|before| now - before > SLOW * STRETCH) {
            self.granted = None;
        }
        self.granted.is_some()
    }

    pub(crate) fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}
