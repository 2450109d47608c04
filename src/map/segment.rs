//! Consecutive answers as they came, read one by one as the consumer asks.
//! Made by the drive of completions and failures; taken apart by the adapters.

use std::vec::IntoIter;

use fastmap_backends::{ItemFailure, Items, Payload};

use crate::error::Error;

/// Answers to consecutive items. The default holds none.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    first: u64,
    items: u32,
    /// Items read.
    next: u32,
    /// Items before this one, from `next` on, may be read the quick way.
    quick: u32,
    payload: Payload,
    /// Bytes of the payload read.
    at: usize,
    stride: Option<u32>,
    failures: IntoIter<ItemFailure>,
    /// The one answer of a segment that was made here.
    failed: Option<Error>,
}

/// One answer.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// An encoded result.
    Result(&'a [u8]),
    /// The payload holds fewer results than it should.
    Missing,
    Failed(Error),
}

impl Segment {
    /// What a worker answered.
    pub(crate) fn done(
        first: u64,
        items: u32,
        stride: Option<u32>,
        payload: Payload,
        failures: Vec<ItemFailure>,
    ) -> Self {
        Segment {
            first,
            items,
            next: 0,
            quick: 0,
            payload,
            at: 0,
            stride,
            failures: failures.into_iter(),
            failed: None,
        }
    }

    /// An item that is answered by an error.
    pub(crate) fn failed(index: u64, error: Error) -> Self {
        let failed = Some(error.at(index));
        Segment {
            first: index,
            items: 1,
            next: 0,
            quick: 0,
            payload: Payload::default(),
            at: 0,
            stride: None,
            failures: Vec::new().into_iter(),
            failed,
        }
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index behind the last item.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.items)
    }

    pub(crate) fn bytes(&self) -> usize {
        let failures = self.failures.as_slice().iter();
        self.payload.bytes().len()
            + failures.map(|failure| size_of::<ItemFailure>() + failure.message.len()).sum::<usize>()
    }

    /// Items read.
    pub(crate) fn read(&self) -> u32 {
        self.next
    }

    /// Items not read yet.
    pub(crate) fn left(&self) -> u32 {
        self.items - self.next
    }

    /// Takes the first failed item out, with all that is behind it. To be asked before anything is read.
    pub(crate) fn cut_at_failure(&mut self) -> Option<Error> {
        if let Some(error) = self.failed.take() {
            self.items = 0;
            return Some(error);
        }
        let failure = std::mem::take(&mut self.failures).next()?;
        self.items = failure.offset;
        let index = self.first + u64::from(failure.offset);
        Some(Error::of_failure(failure).at(index))
    }

    /// Nothing more is read from it.
    pub(crate) fn cut(&mut self) {
        self.items = self.next;
        self.quick = 0;
    }

    /// Lets up to so many of the next answers be read by [`Segment::quick`]: those up to the next failure.
    pub(crate) fn allow(&mut self, answers: u32) {
        let failure = self.failures.as_slice().first().map_or(self.items, |failure| failure.offset);
        let end = if self.failed.is_some() { self.next } else { failure };
        self.quick = self.next.saturating_add(answers).min(end);
    }

    /// The next answer's bytes, if it is a result that was allowed to be read without a look at anything else.
    #[inline]
    pub(crate) fn quick(&mut self, stride: Option<u32>) -> Option<&[u8]> {
        if self.next >= self.quick {
            return None;
        }
        let mut items = Items::resume(self.payload.bytes(), stride, self.at);
        let item = items.next()?;
        self.at = items.position();
        self.next += 1;
        Some(item)
    }

    /// The next answer and its index.
    pub(crate) fn next(&mut self) -> Option<(u64, Answer<'_>)> {
        if self.next == self.items {
            return None;
        }
        let offset = self.next;
        let index = self.first + u64::from(offset);
        self.next += 1;
        if let Some(error) = self.failed.take() {
            return Some((index, Answer::Failed(error)));
        }
        if self.failures.as_slice().first().is_some_and(|failure| failure.offset == offset) {
            let failure = self.failures.next().expect("it was there");
            return Some((index, Answer::Failed(Error::of_failure(failure).at(index))));
        }
        let mut items = Items::resume(self.payload.bytes(), self.stride, self.at);
        let answer = items.next().map_or(Answer::Missing, Answer::Result);
        self.at = items.position();
        Some((index, answer))
    }
}
