//! The loop that a worker runs for a function, its items and its results: decodes, calls, encodes.

use std::any::type_name;
use std::marker::PhantomData;

use fastmap_backends::{Descriptor, FailureKind, FunctionId, ItemFailure, Task, Work};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::floats::start_in_mode;
use crate::worker::panics::caught;

/// Conjures the one value of a function type that has no bytes.
pub(crate) fn zst_value<F: Copy>() -> F {
    // Folded away; the public methods check it when they are compiled, where the error can point to the user's line.
    assert!(size_of::<F>() == 0, "a function with bytes got past the public methods");
    // SAFETY: F has no bytes, so that there is nothing to initialise, and it is Copy, so that another one is no
    // forgery: the host held a value of it when it named this function, and none is ever dropped.
    #[allow(clippy::uninit_assumed_init)]
    unsafe {
        std::mem::MaybeUninit::<F>::uninit().assume_init()
    }
}

/// How a worker gets to the loop for a function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    usual: &'static Descriptor,
    in_mode: &'static Descriptor,
}

impl Entry {
    /// The function as it mostly runs.
    pub(crate) fn id(self) -> FunctionId {
        FunctionId::of(self.usual)
    }

    /// The function where a floating point mode lies behind its context.
    pub(crate) fn id_in_mode(self) -> FunctionId {
        FunctionId::of(self.in_mode)
    }
}

/// The loop for `Fn(T) -> R`.
pub(crate) struct Plain<F, T, R>(PhantomData<fn(F, T) -> R>);

impl<F: Fn(T) -> R + Copy, T: DeserializeOwned, R: Serialize + DeserializeOwned> Plain<F, T, R> {
    pub(crate) const ENTRY: Entry = Entry {
        usual: &Descriptor::new(type_name::<Self>, Self::start),
        in_mode: &Descriptor::new(type_name::<Self>, |context| start_in_mode(context, Self::start)),
    };

    #[allow(clippy::unnecessary_wraps, reason = "the shape that a descriptor holds")]
    fn start(_context: &[u8]) -> Result<Box<dyn Task>, ItemFailure> {
        let run: fn(&mut (), &mut Work<'_>) = |(), work| each::<T, R>(work, &mut zst_value::<F>());
        Ok(Box::new(Stateful { state: Some(()), remake: None, run, result_stride: codec::stride::<R>() }))
    }
}

/// The loop for `Fn(&T) -> R`.
pub(crate) struct ByRef<F, T, R>(PhantomData<fn(F, T) -> R>);

impl<F: Fn(&T) -> R + Copy, T: DeserializeOwned, R: Serialize + DeserializeOwned> ByRef<F, T, R> {
    pub(crate) const ENTRY: Entry = Entry {
        usual: &Descriptor::new(type_name::<Self>, Self::start),
        in_mode: &Descriptor::new(type_name::<Self>, |context| start_in_mode(context, Self::start)),
    };

    #[allow(clippy::unnecessary_wraps, reason = "the shape that a descriptor holds")]
    fn start(_context: &[u8]) -> Result<Box<dyn Task>, ItemFailure> {
        let run: fn(&mut (), &mut Work<'_>) = |(), work| {
            let func = zst_value::<F>();
            each::<T, R>(work, &mut |item| func(&item));
        };
        Ok(Box::new(Stateful { state: Some(()), remake: None, run, result_stride: codec::stride::<R>() }))
    }
}

/// The loop for `Fn(&C, T) -> R`.
pub(crate) struct With<F, C, T, R>(PhantomData<fn(F, C, T) -> R>);

impl<F, C, T, R> With<F, C, T, R>
where
    F: Fn(&C, T) -> R + Copy,
    C: DeserializeOwned + 'static,
    T: DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    pub(crate) const ENTRY: Entry = Entry {
        usual: &Descriptor::new(type_name::<Self>, Self::start),
        in_mode: &Descriptor::new(type_name::<Self>, |context| start_in_mode(context, Self::start)),
    };

    fn start(context: &[u8]) -> Result<Box<dyn Task>, ItemFailure> {
        let context: C = codec::decode(context).map_err(|error| ItemFailure {
            offset: 0,
            kind: FailureKind::Serialize,
            message: error.to_string(),
        })?;
        let run: fn(&mut C, &mut Work<'_>) = |context, work| {
            let func = zst_value::<F>();
            each::<T, R>(work, &mut |item| func(context, item));
        };
        Ok(Box::new(Stateful {
            state: Some(context),
            remake: None,
            run,
            result_stride: codec::stride::<R>(),
        }))
    }
}

/// The loop for `Fn(&mut S, T) -> R` with its `Fn() -> S`.
#[allow(clippy::type_complexity)]
pub(crate) struct Init<N, F, S, T, R>(PhantomData<fn(N, F, T) -> (S, R)>);

impl<N, F, S, T, R> Init<N, F, S, T, R>
where
    N: Fn() -> S + Copy,
    F: Fn(&mut S, T) -> R + Copy,
    S: 'static,
    T: DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    pub(crate) const ENTRY: Entry = Entry {
        usual: &Descriptor::new(type_name::<Self>, Self::start),
        in_mode: &Descriptor::new(type_name::<Self>, |context| start_in_mode(context, Self::start)),
    };

    fn start(_context: &[u8]) -> Result<Box<dyn Task>, ItemFailure> {
        let make: fn() -> S = || zst_value::<N>()();
        let state = caught(make).map_err(|message| ItemFailure {
            offset: 0,
            kind: FailureKind::Panic,
            message: format!("init {message}"),
        })?;
        let run: fn(&mut S, &mut Work<'_>) = |state, work| {
            let func = zst_value::<F>();
            each::<T, R>(work, &mut |item| func(state, item));
        };
        Ok(Box::new(Stateful {
            state: Some(state),
            remake: Some(make),
            run,
            result_stride: codec::stride::<R>(),
        }))
    }
}

/// A loop with what it keeps between items.
pub(crate) struct Stateful<S> {
    state: Option<S>,
    /// Builds the state anew after a panic, which may have left it half changed.
    remake: Option<fn() -> S>,
    run: fn(&mut S, &mut Work<'_>),
    result_stride: Option<u32>,
}

impl<S> Task for Stateful<S> {
    fn result_stride(&self) -> Option<u32> {
        self.result_stride
    }

    fn run(&mut self, work: &mut Work<'_>) {
        loop {
            if self.state.is_none()
                && let Some(remake) = self.remake
            {
                match caught(remake) {
                    Ok(state) => self.state = Some(state),
                    Err(message) => {
                        if work.next_item().is_none() {
                            return;
                        }
                        work.fail(FailureKind::Panic, format!("init {message}"));
                        continue;
                    }
                }
            }
            let state = self.state.as_mut().expect("a state that can't be made anew is never taken away");
            let run = self.run;
            match caught(|| run(state, work)) {
                Ok(()) => return,
                Err(message) => {
                    work.fail(FailureKind::Panic, message);
                    if self.remake.is_some() {
                        let state = self.state.take();
                        // Its drop may panic as well; there is nothing left to answer with that.
                        let _dropped = caught(|| drop(state));
                    }
                }
            }
        }
    }
}

/// Decodes, calls, encodes: the way of one item through a worker.
#[inline]
pub(crate) fn each<T: DeserializeOwned, R: Serialize + DeserializeOwned>(
    work: &mut Work<'_>,
    func: &mut impl FnMut(T) -> R,
) {
    if let (Some(stride), Some(result)) = (codec::stride::<T>(), codec::stride::<R>()) {
        let call = |bytes: &[u8], slot: &mut [u8]| {
            let item = codec::get::<T>(bytes).map_err(|error| error.to_string())?;
            codec::write_plain(&func(item), slot);
            Ok(())
        };
        if work.each_plain(stride, result, call) {
            return;
        }
    }
    while let Some(bytes) = work.next_item() {
        match codec::get::<T>(bytes) {
            Ok(item) => {
                let result = func(item);
                if let Some(stride) = codec::stride::<R>()
                    && let Some(slot) = work.slot(stride)
                {
                    codec::write_plain(&result, slot);
                    continue;
                }
                let start = work.out().len();
                if let Err(error) = codec::put(&result, work.out()) {
                    work.fail(FailureKind::Serialize, error.to_string());
                } else if work.was_refused() && codec::is_err::<R>(&work.out()[start..]) {
                    work.answered_error();
                }
            }
            Err(error) => work.fail(FailureKind::Serialize, error.to_string()),
        }
    }
}
