//! A map's function as the calling thread calls it: no item is encoded, and the context is the user's own.
//! Made by the methods of the configuration; called by `source`, a portion at a time or for single items.

use std::marker::PhantomData;
use std::time::Instant;

use fastmap_backends::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::map::inline::policy::Portion;
use crate::worker::panics::{call_item, called, watch_panics};
use crate::worker::typed_loop::zst_value;

/// How a portion ended.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// It is done, or took long enough.
    Full,
    /// The input has ended.
    End,
    /// The function panicked at the item after the last result.
    Panicked(String),
}

/// A function for the items of `I`.
pub(crate) trait InlineFn<I, R>: Send {
    /// Pulls items and appends their results to `results`, until it holds as many as the portion has items.
    /// At the end of the input, `input` becomes `None`.
    ///
    /// # Panics
    /// If the input does. The results until then are in `results`.
    fn call(&self, input: &mut Option<I>, results: &mut Vec<R>, portion: &Portion) -> Stopped;

    /// The result of the next item alone. `None`: the input has ended, and `input` is `None`, or the function
    /// panicked, and `panicked` has its message. To be called after a portion, which installs the panic hook.
    ///
    /// # Panics
    /// If the input does.
    fn call_one(&self, input: &mut Option<I>, panicked: &mut Option<String>) -> Option<R>;

    /// The context, encoded for workers.
    fn context(&self) -> Result<Context, Error> {
        Ok(Context::default())
    }
}

// The types name neither the iterator nor the result, so that these need not be `'static`.

/// `Fn(T) -> R`.
pub(crate) struct Plain<F>(PhantomData<fn(F)>);

/// `Fn(&T) -> R`.
pub(crate) struct ByRef<F>(PhantomData<fn(F)>);

/// `Fn(&C, T) -> R` with its `C`.
pub(crate) struct With<F, C>(C, PhantomData<fn(F)>);

impl<F> Plain<F> {
    pub(crate) fn new() -> Self {
        Plain(PhantomData)
    }
}

impl<F> ByRef<F> {
    pub(crate) fn new() -> Self {
        ByRef(PhantomData)
    }
}

impl<F, C> With<F, C> {
    pub(crate) fn new(context: C) -> Self {
        With(context, PhantomData)
    }

    /// The context as it is sent to workers.
    pub(crate) fn encode(&self) -> Result<Context, Error>
    where
        C: Serialize + DeserializeOwned,
    {
        codec::encode(&self.0)
            .map_err(|error| Error::new(ErrorKind::Serialize, error.to_string()).with_source(error))
    }
}

impl<F, I, R> InlineFn<I, R> for Plain<F>
where
    F: Fn(I::Item) -> R + Copy,
    I: Iterator,
{
    fn call(&self, input: &mut Option<I>, results: &mut Vec<R>, portion: &Portion) -> Stopped {
        // A function without bytes is made from nothing, as in a worker. `Copy` makes that sound.
        each(input, results, portion, zst_value::<F>())
    }

    fn call_one(&self, input: &mut Option<I>, panicked: &mut Option<String>) -> Option<R> {
        one(input, panicked, zst_value::<F>())
    }
}

impl<'a, F, T, I, R> InlineFn<I, R> for ByRef<F>
where
    F: Fn(&T) -> R + Copy,
    T: 'a,
    I: Iterator<Item = &'a T>,
{
    fn call(&self, input: &mut Option<I>, results: &mut Vec<R>, portion: &Portion) -> Stopped {
        each(input, results, portion, zst_value::<F>())
    }

    fn call_one(&self, input: &mut Option<I>, panicked: &mut Option<String>) -> Option<R> {
        one(input, panicked, zst_value::<F>())
    }
}

impl<F, C, I, R> InlineFn<I, R> for With<F, C>
where
    F: Fn(&C, I::Item) -> R + Copy,
    C: Serialize + DeserializeOwned + Send,
    I: Iterator,
{
    fn call(&self, input: &mut Option<I>, results: &mut Vec<R>, portion: &Portion) -> Stopped {
        let func = zst_value::<F>();
        each(input, results, portion, |item| func(&self.0, item))
    }

    fn call_one(&self, input: &mut Option<I>, panicked: &mut Option<String>) -> Option<R> {
        let func = zst_value::<F>();
        one(input, panicked, |item| func(&self.0, item))
    }

    fn context(&self) -> Result<Context, Error> {
        self.encode()
    }
}

/// The loop of a portion: between two looks at the clock there are only the input, the function and a place
/// for the result.
#[inline]
fn each<I: Iterator, R>(
    input: &mut Option<I>,
    results: &mut Vec<R>,
    portion: &Portion,
    func: impl Fn(I::Item) -> R,
) -> Stopped {
    let begun = Instant::now();
    let items = portion.items as usize;
    // Before the loop, which writes into spare capacity: nothing moves, and no item checks for room.
    results.reserve(items.saturating_sub(results.len()));
    // The hook records where a panic was raised: it has to be there before the first call.
    watch_panics();
    let stopped = called(|| {
        let mut local = Local { iterator: input.take(), input, made: 0, results };
        let Some(iterator) = &mut local.iterator else { return Stopped::End };
        let before = local.results.len();
        let places = local.results.spare_capacity_mut();
        // At most the spare capacity: `set_len` below relies on it.
        let items = items.saturating_sub(before).min(places.len());
        loop {
            let look = items.min(local.made + portion.look as usize);
            for place in &mut places[local.made..look] {
                let Some(item) = iterator.next() else {
                    // Dropped at its end. An iterator may begin again after `None`, and must not be pulled
                    // then.
                    local.iterator = None;
                    return Stopped::End;
                };
                place.write(call_item(|| func(item)));
                // After the write: a panic of the function leaves no result at this place.
                local.made += 1;
            }
            // By the clock, too: items may be slower than those by which the portion was sized.
            if local.made >= items || begun.elapsed() > portion.time {
                return Stopped::Full;
            }
        }
    });
    stopped.unwrap_or_else(Stopped::Panicked)
}

/// A single call, without a portion.
#[inline]
fn one<I: Iterator, R>(
    input: &mut Option<I>,
    panicked: &mut Option<String>,
    func: impl Fn(I::Item) -> R,
) -> Option<R> {
    let result = called(|| {
        // Neither a clock nor a place for the result: both are visible beside an item of nanoseconds.
        let Some(item) = input.as_mut()?.next() else {
            *input = None;
            return None;
        };
        Some(call_item(|| func(item)))
    });
    result.unwrap_or_else(|message| {
        *panicked = Some(message);
        None
    })
}

/// What a portion changes for each item. In the loop's own frame it stays in registers: through the
/// references each item cost a nanosecond more. It is written back when the portion ends, also by a panic.
struct Local<'a, I, R> {
    iterator: Option<I>,
    input: &'a mut Option<I>,
    made: usize,
    results: &'a mut Vec<R>,
}

impl<I, R> Drop for Local<'_, I, R> {
    #[inline]
    fn drop(&mut self) {
        *self.input = self.iterator.take();
        // SAFETY: the loop has written `made` results after those that were there, within the capacity.
        unsafe { self.results.set_len(self.results.len() + self.made) };
    }
}
