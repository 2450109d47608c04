//! Answers to consecutive items, read one by one as the consumer asks. The engine makes them from completions
//! and failures; the adapters read them.

use std::vec::IntoIter;

use fastmap_backends::{ItemFailure, Items, Payload};

use crate::error::{Error, ErrorKind};

/// Answers to consecutive items. The default holds none.
#[derive(Debug, Default)]
pub(crate) struct ResultChunk {
    first: u64,
    items: u32,
    /// Items read when `counted` bytes of the payload had been read.
    next: u32,
    counted: usize,
    payload: Payload,
    /// Bytes of the payload read.
    at: usize,
    stride: Option<u32>,
    /// `next_fast` reads up to this item and, where items have a stride, up to this byte of the payload.
    fast_until: u32,
    fast_bytes: usize,
    failures: IntoIter<ItemFailure>,
    /// The error of a chunk that holds one failed item and no payload.
    failed: Option<Error>,
    /// The map ended by an error of this kind before any of the items was answered.
    gap: Option<ErrorKind>,
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

impl ResultChunk {
    /// What a worker answered.
    pub(crate) fn done(
        first: u64,
        items: u32,
        stride: Option<u32>,
        payload: Payload,
        failures: Vec<ItemFailure>,
    ) -> Self {
        ResultChunk {
            first,
            items,
            payload,
            stride,
            failures: failures.into_iter(),
            ..ResultChunk::default()
        }
    }

    /// An item that is answered by an error.
    pub(crate) fn failed(index: u64, error: Error) -> Self {
        ResultChunk { first: index, items: 1, failed: Some(error.at(index)), ..ResultChunk::default() }
    }

    /// Items that will never be answered, although later ones are: each yields an error of its own.
    pub(crate) fn gap(first: u64, items: u32, kind: ErrorKind) -> Self {
        ResultChunk { first, items, gap: Some(kind), ..ResultChunk::default() }
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Index after the last item.
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
        // With a stride `next_fast` moves only `at`: its items follow from the bytes since `counted`.
        let uncounted = self.stride.map_or(0, |stride| (self.at - self.counted) / stride as usize);
        self.next + uncounted as u32
    }

    /// Items not read yet.
    pub(crate) fn left(&self) -> u32 {
        self.items - self.read()
    }

    /// Counts what `next_fast` has read.
    fn count(&mut self) {
        self.next = self.read();
        self.counted = self.at;
    }

    /// Removes the first failed item and all items after it. To be called before anything is read.
    pub(crate) fn cut_at_failure(&mut self) -> Option<Error> {
        if let Some(error) = self.failed.take() {
            self.items = 0;
            return Some(error);
        }
        // Later failures go too: their items are cut off.
        let failure = std::mem::take(&mut self.failures).next()?;
        self.items = failure.offset;
        let index = self.first + u64::from(failure.offset);
        Some(Error::of_failure(failure).at(index))
    }

    /// Nothing more is read from it.
    pub(crate) fn cut(&mut self) {
        self.count();
        self.items = self.next;
        // Else `next_fast` would read on after the cut.
        (self.fast_until, self.fast_bytes) = (0, 0);
    }

    /// Lets `next_fast` read up to this number of the next answers, but none from the next failure on.
    pub(crate) fn allow(&mut self, answers: u32) {
        // First, because the bounds below start at what was read, also by `next_fast`.
        self.count();
        // A failed item has no bytes in the payload: the next item's would be read in its place.
        let failure = self.failures.as_slice().first().map_or(self.items, |failure| failure.offset);
        let end = if self.failed.is_some() || self.gap.is_some() { self.next } else { failure };
        self.fast_until = self.next.saturating_add(answers).min(end);
        let ahead = self.fast_until.saturating_sub(self.next) as usize;
        // Whole results only, also of a payload that is cut short.
        self.fast_bytes = self.stride.map_or(0, |stride| {
            let there = self.payload.len().saturating_sub(self.at) / stride as usize;
            self.at + ahead.min(there) * stride as usize
        });
    }

    /// The next answer's bytes, if it is a result within what `allow` has granted.
    ///
    /// The caller knows at compile time whether results have a stride. If they have, only the position is
    /// kept: a count beside it cost a nanosecond an item.
    #[inline]
    pub(crate) fn next_fast(&mut self, stride: Option<u32>) -> Option<&[u8]> {
        if let Some(stride) = stride {
            let start = self.at;
            if start >= self.fast_bytes {
                return None;
            }
            // `item` does not check the payload's end, behind which the frame goes on: `fast_bytes` does.
            let item = self.payload.item(start, stride as usize)?;
            self.at = start + stride as usize;
            return Some(item);
        }
        if self.next >= self.fast_until {
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
        self.count();
        if self.next == self.items {
            return None;
        }
        let offset = self.next;
        let index = self.first + u64::from(offset);
        self.next += 1;
        if let Some(error) = self.failed.take() {
            return Some((index, Answer::Failed(error)));
        }
        if let Some(kind) = self.gap {
            return Some((index, Answer::Failed(Error::unanswered(kind).at(index))));
        }
        if self.failures.as_slice().first().is_some_and(|failure| failure.offset == offset) {
            let failure = self.failures.next().expect("it was there");
            return Some((index, Answer::Failed(Error::of_failure(failure).at(index))));
        }
        let mut items = Items::resume(self.payload.bytes(), self.stride, self.at);
        let answer = items.next().map_or(Answer::Missing, Answer::Result);
        self.at = items.position();
        // Counted already by `next`, so that `read` must not count these bytes again.
        self.counted = self.at;
        Some((index, answer))
    }
}

/// The answer to the item of that index.
pub(crate) type Indexed<R> = (u64, Result<R, Error>);

/// The next answer, or what ends the map.
pub(crate) type Advance<R> = Result<Indexed<R>, Error>;
