//! Pulling items from the user's iterator and encoding them, a batch at a time.
//! Called by the adapter inside `next()`; fills the drive's batch builder.

use std::time::Instant;

use fastmap_backends::BatchBuilder;
use serde::Serialize;

use super::drive::{Plan, Pulled};
use crate::codec;
use crate::error::{Error, ErrorKind};

/// The user's iterator, until its first `None`.
pub(crate) struct Input<I> {
    iterator: Option<I>,
    /// One loop for each way of encoding, so that a batch costs one indirect call.
    fill: fn(&mut I, &mut BatchBuilder, &Plan) -> Filled,
}

/// How a batch was filled.
pub(crate) struct Filled {
    pub(crate) how: Pulled,
    /// The plan's patience was over.
    pub(crate) slow: bool,
}

impl<I: Iterator> Input<I> {
    pub(crate) fn by_value(iterator: I) -> Self
    where
        I::Item: Serialize,
    {
        Input {
            iterator: Some(iterator),
            fill: |iterator, builder, plan| fill(iterator, builder, plan, |item, out| codec::put(&item, out)),
        }
    }

    pub(crate) fn by_ref<'a, T>(iterator: I) -> Self
    where
        I: Iterator<Item = &'a T>,
        T: Serialize + 'a,
    {
        Input {
            iterator: Some(iterator),
            fill: |iterator, builder, plan| fill(iterator, builder, plan, codec::put::<T>),
        }
    }

    /// Pulls what the plan says, less if the input ends or is slow.
    ///
    /// # Panics
    /// If the input does. What was pulled before stays in the builder.
    pub(crate) fn pull(&mut self, builder: &mut BatchBuilder, plan: &Plan) -> Filled {
        builder.drop_uncounted();
        let Some(iterator) = &mut self.iterator else { return Filled { how: Pulled::End, slow: false } };
        let filled = (self.fill)(iterator, builder, plan);
        if matches!(filled.how, Pulled::End) {
            // Freed as soon as it has ended, and not asked again.
            self.iterator = None;
        }
        filled
    }

    /// The iterator, for who calls the function itself; none behind the end.
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

#[inline]
fn fill<I: Iterator>(
    iterator: &mut I,
    builder: &mut BatchBuilder,
    plan: &Plan,
    put: impl Fn(I::Item, &mut Vec<u8>) -> Result<(), codec::CodecError>,
) -> Filled {
    let begun = Instant::now();
    let mut slow = false;
    let mut look_at_clock = builder.items() + 1;
    while builder.items() < plan.items && builder.bytes() < plan.bytes && !slow {
        let Some(item) = iterator.next() else { return Filled { how: Pulled::End, slow } };
        if let Err(error) = put(item, builder.buffer()) {
            let error = Error::new(ErrorKind::Serialize, error.to_string()).with_source(error);
            return Filled { how: Pulled::Unwritable(error), slow };
        }
        builder.added(1);
        // A clock costs more than a cheap item: look after 1, 2, 4, 8, … items.
        if builder.items() == look_at_clock {
            look_at_clock = look_at_clock.saturating_mul(2);
            slow = begun.elapsed() > plan.patience;
        }
    }
    Filled { how: Pulled::Enough, slow }
}
