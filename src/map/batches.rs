//! `.batches()`: results in the batches they came in.
//! One step of the adapter for each result chunk instead of each item.

use std::fmt;
use std::iter::FusedIterator;

use serde::de::DeserializeOwned;

use super::Fastmap;
use crate::error::Error;

/// An iterator of batches of results, in order; made by [`Fastmap::batches`].
///
/// Lazy and bounded as [`Fastmap`]. The size of a batch follows from measured times and has no other meaning.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::prelude::*;
///
/// let mut squares = Vec::new();
/// for batch in (0..1000u64).fastmap(|n| n * n).batches() {
///     squares.extend(batch?);
/// }
/// assert_eq!(squares.len(), 1000);
/// # Ok::<(), fastmap::Error>(())
/// ```
#[must_use = "a map is lazy and does nothing until it is consumed"]
pub struct Batches<I: Iterator, R> {
    map: Fastmap<I, R>,
    /// The failed item after the results that were just yielded.
    failed: Option<Error>,
}

impl<I: Iterator, R> Batches<I, R> {
    pub(crate) fn new(map: Fastmap<I, R>) -> Self {
        Batches { map, failed: None }
    }
}

impl<I, R> Iterator for Batches<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    type Item = Result<Vec<R>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let mut run = match self.map.advance()? {
            Ok((_, Ok(result))) => {
                let mut run = Vec::with_capacity(1 + self.map.left());
                run.push(result);
                run
            }
            Ok((_, Err(error))) | Err(error) => return Some(Err(error)),
        };
        // Only answers that are at hand: a batch ends with its chunk, and no worker is waited for.
        while let Some((_, answer)) = self.map.next_made().or_else(|| self.map.answer()) {
            match answer {
                Ok(result) => run.push(result),
                Err(error) => {
                    // The results before it are yielded first. Answers after it stay in the chunk for the
                    // next call.
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Some(Ok(run))
    }

    /// At least one batch while there are items, at most one for each.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let (low, high) = self.map.size_hint();
        let failed = usize::from(self.failed.is_some());
        (usize::from(low > 0).max(failed), high.and_then(|high| high.checked_add(failed)))
    }
}

impl<I: Iterator, R: DeserializeOwned> FusedIterator for Batches<I, R> {}

impl<I: Iterator, R> fmt::Debug for Batches<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batches").field(&self.map).finish()
    }
}
