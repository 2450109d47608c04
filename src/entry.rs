//! How a program is entered (host or worker), and the typed loop that a worker runs.
//! `enter` decides; [`FunctionId`]s made here lead a worker of the same executable to the loop for `F`, `T` and `R`.

use std::any::{Any, type_name};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use fastmap_backends::{Descriptor, FailureKind, FunctionId, ItemFailure, Task, Work, local, startable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backtrace;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::floats::start_in_mode;

/// This file, as the places of frames name it.
pub(crate) const FILE: &str = file!();

static ENTERED: AtomicBool = AtomicBool::new(false);

/// Makes this process a worker, if it was started as one; then it never returns. In a host it returns at once.
///
/// To be called as the first statement of a hand-written `main`, before threads are started or files opened:
/// what stands before it runs in every worker, too. [`fastmap_main!`](crate::fastmap_main) does it for you.
///
/// # Examples
///
/// ```no_run
/// #[allow(clippy::needless_doctest_main)]
/// fn main() {
///     fastmap::enter();
///     // the program
/// }
/// ```
#[allow(clippy::needless_doctest_main)]
pub fn enter() {
    local::enter();
    ENTERED.store(true, Ordering::Relaxed);
}

/// A function that the loader calls before `main`. glibc gives it the arguments of `main`, musl nothing.
#[doc(hidden)]
pub type Constructor = extern "C" fn(usize, usize, usize);

/// [`enter`] as a constructor of the program. A worker, which never returns from it, first calls those that the
/// loader would call after it, as it would: they stand between it and the end of the section.
///
/// # Safety
/// `own` must be the place of the constructor that runs, in the program's section of constructors, `end` that section's
/// end, and `given` what the loader has given.
#[doc(hidden)]
pub unsafe fn enter_as_constructor(own: *const Constructor, end: *const Constructor, given: [usize; 3]) {
    local::enter_after(|| {
        let mut next = own.wrapping_add(1);
        while next < end {
            // SAFETY: it lies in the section, by the line above. A place may be empty.
            if let Some(constructor) = unsafe { next.cast::<Option<Constructor>>().read() } {
                let [count, arguments, environment] = given;
                constructor(count, arguments, environment);
            }
            next = next.wrapping_add(1);
        }
    });
    ENTERED.store(true, Ordering::Relaxed);
}

/// # Errors
/// If this program has not been entered: its workers would run its `main` as well. And, unless it has a backend of its
/// own, if another program would be started for a worker.
pub(crate) fn check_entered(own_backend: bool) -> Result<(), Error> {
    if local::marked() && !local::inside_worker() {
        local::leave_unentered();
    }
    if local::inside_worker() {
        return Ok(());
    }
    if !own_backend {
        startable().map_err(|why| Error::new(ErrorKind::NotEntered, why))?;
    }
    if ENTERED.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotEntered,
        "this program can't start workers of itself: let `fastmap_main!(run);` be its main, or begin main with \
         `fastmap::enter();` (in a test file: `fastmap::test_support!();`)",
    ))
}

/// Conjures the one value of a function type that has no bytes.
pub(crate) fn conjure<F: Copy>() -> F {
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
        let run: fn(&mut (), &mut Work<'_>) = |(), work| each::<T, R>(work, &mut conjure::<F>());
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
            let func = conjure::<F>();
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
            let func = conjure::<F>();
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
        let make: fn() -> S = || conjure::<N>()();
        let state = caught(make).map_err(|message| ItemFailure {
            offset: 0,
            kind: FailureKind::Panic,
            message: format!("init {message}"),
        })?;
        let run: fn(&mut S, &mut Work<'_>) = |state, work| {
            let func = conjure::<F>();
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
struct Stateful<S> {
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
fn each<T: DeserializeOwned, R: Serialize + DeserializeOwned>(
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

/// Whose panics the hook keeps to itself on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Catching {
    Nobody,
    /// All that a worker's loop does.
    Worker,
    /// The function's that the calling thread of a map runs; not those of the input that it reads between two calls.
    Here,
}

/// What the hook has seen of a panic.
struct Seen {
    message: String,
    trace: Option<Backtrace>,
}

thread_local! {
    static CATCHING: Cell<Catching> = const { Cell::new(Catching::Nobody) };
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// The hook is there, or in one that the function has hung up.
static HOOKED: AtomicBool = AtomicBool::new(false);

/// Dropped with the hook.
struct Hook;

impl Drop for Hook {
    fn drop(&mut self) {
        HOOKED.store(false, Ordering::Release);
    }
}

/// Hangs the hook up, before anything is caught.
pub(crate) fn watch_panics() {
    if !HOOKED.load(Ordering::Acquire) {
        hang_up_hook();
    }
    SEEN.take();
}

#[cold]
fn hang_up_hook() {
    static HUNG_BEFORE: AtomicBool = AtomicBool::new(false);
    if std::thread::panicking() {
        // Not allowed here.
        return;
    }
    let before = std::panic::take_hook();
    // It has taken the place of ours: the function has hung it up, and wants it called.
    let functions_own = HUNG_BEFORE.swap(true, Ordering::AcqRel);
    let hook = Hook;
    HOOKED.store(true, Ordering::Release);
    std::panic::set_hook(Box::new(move |info| {
        let _there = &hook;
        // The default hook's words belong to panics that nobody answers for: other threads of the function,
        // and builds with panic=abort, whose last words become part of the crash report.
        let answered = CATCHING.get() != Catching::Nobody && cfg!(panic = "unwind");
        if answered {
            SEEN.set(Some(Seen { message: describe(info), trace: backtrace::taken() }));
        }
        if !answered || functions_own {
            before(info);
        }
    }));
}

/// Calls `f`; a panic becomes its message and where it was raised.
fn caught<O>(f: impl FnOnce() -> O) -> Result<O, String> {
    watch_panics();
    let outer = CATCHING.replace(Catching::Worker);
    let result = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(outer);
    result.map_err(words_of)
}

/// Calls `f`, which calls a map's function by [`call_item`]. A panic of that function becomes its message and where it
/// was raised, as in a worker; any other goes on to the caller. Behind [`watch_panics`].
#[inline]
pub(crate) fn called<O>(f: impl FnOnce() -> O) -> Result<O, String> {
    catch_unwind(AssertUnwindSafe(f)).or_else(|payload| {
        if CATCHING.replace(Catching::Nobody) == Catching::Here {
            Err(words_of(payload))
        } else {
            resume_unwind(payload)
        }
    })
}

/// Calls a map's function inside of [`called`]. Two stores are all that it costs to know whose a panic is.
#[inline]
pub(crate) fn call_item<R>(func: impl FnOnce() -> R) -> R {
    CATCHING.set(Catching::Here);
    let result = func();
    // Nobody was: no map does this inside of a function, see `inside_call`.
    CATCHING.set(Catching::Nobody);
    result
}

/// Whether a map's function is running in this thread: the maps that it makes are nested, and run nothing by
/// [`call_item`].
pub(crate) fn inside_call() -> bool {
    CATCHING.get() != Catching::Nobody
}

/// Whether it is one that the calling thread of its map took.
pub(crate) fn inside_inline_call() -> bool {
    CATCHING.get() == Catching::Here
}

#[cold]
fn words_of(payload: Box<dyn Any + Send>) -> String {
    // A panic that was passed on (`resume_unwind`, as rayon and `join` do) has called no hook on this thread; what
    // the hook saw last may then be a panic that the function has caught itself.
    let words = text(payload.as_ref());
    let message = match SEEN.take().filter(|seen| seen.message.ends_with(words)) {
        None => format!("panicked: {words}"),
        Some(Seen { message, trace: None }) => message,
        Some(Seen { message, trace: Some(trace) }) => match backtrace::of_the_function(&trace) {
            frames if frames.is_empty() => message,
            frames => format!("{message}{}{frames}", ItemFailure::FRAMES),
        },
    };
    // The payload's own drop can panic.
    std::mem::forget(payload);
    message
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = text(info.payload());
    match info.location() {
        Some(location) => format!("panicked at {location}: {message}"),
        None => format!("panicked: {message}"),
    }
}

/// What a panic was raised with.
fn text(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a value that is no text)")
}
