//! Pulling items from the user's iterator and encoding them, a batch at a time.
//! Called by the adapter inside `next()`; fills the engine's batch builder.

use std::borrow::Borrow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastmap_backends::BatchBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::feed::{Level, Supply};
use crate::map::engine::{Plan, Pulled};

/// Items between two looks at the clock. Room for this many numbers is cleared before they are written, and
/// stays in the nearest cache meanwhile: clearing whole batches cost a tenth of a cheap item's path.
const LONGEST: u32 = 256;

/// The user's iterator, until its first `None`.
pub(crate) struct Input<I> {
    iterator: Option<I>,
    /// The loop for these items and their encoding: a batch costs one indirect call.
    fill: fn(&mut I, &mut BatchBuilder, &Plan) -> Filled,
    /// The feed that the iterator is made of; set by the first query.
    feed: OnceLock<Option<Arc<Level>>>,
}

/// What is known of the next pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// Nothing: it may wait.
    Unknown,
    /// The iterator says that it has a further item, or that it has none.
    Promised,
    /// A feed, which has this many items, or has ended.
    Fed(u32),
    /// A feed that has nothing yet.
    Later,
}

/// How a batch was filled.
pub(crate) struct Filled {
    pub(crate) how: Pulled,
    /// The input took longer than the plan's patience.
    pub(crate) slow: bool,
    /// Time to pull and encode.
    pub(crate) time: Duration,
    /// The longest time between two looks at the clock.
    pub(crate) longest: Duration,
}

impl<I: Iterator> Input<I> {
    pub(crate) fn by_value(iterator: I) -> Self
    where
        I::Item: Serialize + DeserializeOwned,
    {
        Input {
            iterator: Some(iterator),
            fill: |iterator, builder, plan| fill::<I, I::Item>(iterator, builder, plan),
            feed: OnceLock::new(),
        }
    }

    pub(crate) fn by_ref<'a, T>(iterator: I) -> Self
    where
        I: Iterator<Item = &'a T>,
        T: Serialize + DeserializeOwned + 'a,
    {
        Input {
            iterator: Some(iterator),
            fill: |iterator, builder, plan| fill::<I, T>(iterator, builder, plan),
            feed: OnceLock::new(),
        }
    }

    /// Pulls what the plan says, less if the input ends or is slow.
    ///
    /// # Panics
    /// If the input does. What was pulled before stays in the builder.
    pub(crate) fn pull(&mut self, builder: &mut BatchBuilder, plan: &Plan) -> Filled {
        // A panic while an item was encoded may have left a part of it.
        builder.drop_uncounted();
        let Some(iterator) = &mut self.iterator else {
            return Filled { how: Pulled::End, slow: false, time: Duration::ZERO, longest: Duration::ZERO };
        };
        let filled = (self.fill)(iterator, builder, plan);
        if matches!(filled.how, Pulled::End) {
            // Dropped at its end. An iterator may begin again after `None`, and must not be pulled then.
            self.iterator = None;
        }
        filled
    }

    /// The feed that the iterator is made of.
    pub(crate) fn feed(&self) -> Option<&Arc<Level>> {
        let Input { iterator, feed, .. } = self;
        feed.get_or_init(|| iterator.as_ref().and_then(|iterator| Level::level_of(iterator))).as_ref()
    }

    /// What is known of the next pull.
    pub(crate) fn prospect(&self) -> Prospect {
        let supply = self.feed().map(|feed| feed.supply());
        // Items that are chained before a feed can be pulled even while the feed is empty.
        let (low, high) = self.size_hint();
        let promised = u32::try_from(low).unwrap_or(u32::MAX);
        match (supply, promised) {
            // An input that says that it is empty can be pulled: it returns `None` without a wait.
            (None, 0) if high != Some(0) => Prospect::Unknown,
            (None, _) => Prospect::Promised,
            (Some(Supply::Later), 0) => Prospect::Later,
            (Some(Supply::Later), promised) => Prospect::Fed(promised),
            // An ended feed counts as one item, so that the pull sees its `None`.
            (Some(Supply::Now(items)), promised) => {
                Prospect::Fed(u32::try_from(items).unwrap_or(u32::MAX).max(promised))
            }
        }
    }

    /// The iterator, for calls in this thread; `None` after its end.
    pub(crate) fn iterator(&mut self) -> &mut Option<I> {
        &mut self.iterator
    }

    /// Items left, where the iterator knows.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.size_hint() {
            (low, Some(high)) if low == high => Some(low as u64),
            _ => None,
        }
    }

    pub(crate) fn size_hint(&self) -> (usize, Option<usize>) {
        self.iterator.as_ref().map_or((0, Some(0)), Iterator::size_hint)
    }
}

/// Pulls items, each a `T` or a reference to one.
#[inline]
fn fill<I, T>(iterator: &mut I, builder: &mut BatchBuilder, plan: &Plan) -> Filled
where
    I: Iterator,
    I::Item: Borrow<T>,
    T: Serialize + DeserializeOwned,
{
    let begun = Instant::now();
    let (mut time, mut longest) = (Duration::ZERO, Duration::ZERO);
    // A clock costs more than a cheap item: look after 1, 2, 4, 8, … items, at last after each of LONGEST.
    let mut stretch = 1;
    while builder.items() < plan.items && builder.bytes() < plan.bytes && time <= plan.patience {
        let most = stretch.min(plan.items - builder.items());
        let pulled = match codec::stride::<T>() {
            Some(stride) => {
                let room = (plan.bytes - builder.bytes()).div_ceil(stride as usize);
                let most = most.min(u32::try_from(room).unwrap_or(u32::MAX));
                // `slots` count what was written when they are dropped: a panic of the input loses no item.
                let mut slots = builder.slots(most);
                for _ in 0..most {
                    let Some(item) = iterator.next() else {
                        return filled(Pulled::End, begun, plan, longest);
                    };
                    codec::write_plain(item.borrow(), slots.next());
                }
                Pulled::Enough
            }
            None => pull_each(iterator, builder, most, plan.bytes),
        };
        if !matches!(pulled, Pulled::Enough) {
            return filled(pulled, begun, plan, longest);
        }
        stretch = LONGEST.min(2 * stretch);
        let before = std::mem::replace(&mut time, begun.elapsed());
        longest = longest.max(time.saturating_sub(before));
    }
    Filled { how: Pulled::Enough, slow: time > plan.patience, time, longest }
}

fn filled(how: Pulled, begun: Instant, plan: &Plan, longest: Duration) -> Filled {
    let time = begun.elapsed();
    Filled { how, slow: time > plan.patience, time, longest }
}

/// Pulls up to `most` items without a stride, fewer if the batch reaches `bytes` bytes.
#[inline]
fn pull_each<I, T>(iterator: &mut I, builder: &mut BatchBuilder, most: u32, bytes: usize) -> Pulled
where
    I: Iterator,
    I::Item: Borrow<T>,
    T: Serialize + DeserializeOwned,
{
    for _ in 0..most {
        if builder.bytes() >= bytes {
            break;
        }
        let Some(item) = iterator.next() else { return Pulled::End };
        if let Err(error) = codec::put::<T>(item.borrow(), builder.buffer()) {
            return Pulled::Unwritable(
                Error::new(ErrorKind::Serialize, error.to_string()).with_source(error),
            );
        }
        // After the encoding: what an error or a panic has left of an item must not count as one.
        builder.added(1);
    }
    Pulled::Enough
}
