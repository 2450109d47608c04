//! `.unordered()`: results as they are finished, each with the index of its item.

use std::fmt;
use std::iter::FusedIterator;

use serde::de::DeserializeOwned;

use super::Fastmap;
use crate::error::Error;

/// An iterator of results in the order in which they are finished; made by [`Fastmap::unordered`].
///
/// Lazy and bounded as [`Fastmap`]. The `usize` is the index of the item in the input; an `Err` has it as
/// [`Error::index`].
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::prelude::*;
///
/// let mut squares = vec![0; 100];
/// for answer in (0..100u64).fastmap(|n| n * n).unordered() {
///     let (index, square) = answer?;
///     squares[index] = square;
/// }
/// assert_eq!(squares[99], 9801);
/// # Ok::<(), fastmap::Error>(())
/// ```
#[must_use = "a map is lazy and does nothing until it is consumed"]
pub struct Unordered<I: Iterator, R> {
    map: Fastmap<I, R>,
}

impl<I: Iterator, R> Unordered<I, R> {
    pub(crate) fn new(map: Fastmap<I, R>) -> Self {
        Unordered { map }
    }
}

impl<I, R> Iterator for Unordered<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    type Item = Result<(usize, R), Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(result) = self.map.next_fast() {
            let current = &self.map.engine.current;
            // Minus one, because `read` counts this result already.
            let index = current.first() + u64::from(current.read()) - 1;
            return Some(result.map(|result| (index as usize, result)));
        }
        match self.map.advance()? {
            Ok((index, result)) => Some(result.map(|result| (index as usize, result))),
            Err(error) => Some(Err(error)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.map.size_hint()
    }
}

impl<I: Iterator, R: DeserializeOwned> FusedIterator for Unordered<I, R> {}

impl<I: Iterator, R> fmt::Debug for Unordered<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unordered").field(&self.map).finish()
    }
}
