//! Panics of a map's function: the hook that records where one was raised, and the text that an error gets.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use fastmap_backends::ItemFailure;

use crate::worker::backtrace;

/// Whose panics the hook keeps to itself on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatchScope {
    Nobody,
    /// All that a worker's loop does.
    Worker,
    /// The function's that the calling thread of a map runs; not those of the input that it reads between two calls.
    Here,
}

thread_local! {
    static CATCHING: Cell<CatchScope> = const { Cell::new(CatchScope::Nobody) };
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// What the hook has seen of a panic.
pub(crate) struct Seen {
    message: String,
    trace: Option<Backtrace>,
}

/// The hook is there, or in one that the function has hung up.
pub(crate) static HOOKED: AtomicBool = AtomicBool::new(false);

/// Dropped with the hook.
pub(crate) struct Hook;

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
pub(crate) fn hang_up_hook() {
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
        let answered = CATCHING.get() != CatchScope::Nobody && cfg!(panic = "unwind");
        if answered {
            SEEN.set(Some(Seen { message: describe(info), trace: backtrace::taken() }));
        }
        if !answered || functions_own {
            before(info);
        }
    }));
}

/// Calls `f`; a panic becomes its message and where it was raised.
pub(crate) fn caught<O>(f: impl FnOnce() -> O) -> Result<O, String> {
    watch_panics();
    let outer = CATCHING.replace(CatchScope::Worker);
    let result = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(outer);
    result.map_err(words_of)
}

/// Calls `f`, which calls a map's function by [`call_item`]. A panic of that function becomes its message and where it
/// was raised, as in a worker; any other goes on to the caller. Behind [`watch_panics`].
#[inline]
pub(crate) fn called<O>(f: impl FnOnce() -> O) -> Result<O, String> {
    catch_unwind(AssertUnwindSafe(f)).or_else(|payload| {
        if CATCHING.replace(CatchScope::Nobody) == CatchScope::Here {
            Err(words_of(payload))
        } else {
            resume_unwind(payload)
        }
    })
}

/// Calls a map's function inside of [`called`]. Two stores are all that it costs to know whose a panic is.
#[inline]
pub(crate) fn call_item<R>(func: impl FnOnce() -> R) -> R {
    CATCHING.set(CatchScope::Here);
    let result = func();
    // Nobody was: no map does this inside of a function, see `inside_call`.
    CATCHING.set(CatchScope::Nobody);
    result
}

/// Whether a map's function is running in this thread: the maps that it makes are nested, and run nothing by
/// [`call_item`].
pub(crate) fn inside_call() -> bool {
    CATCHING.get() != CatchScope::Nobody
}

/// Whether it is one that the calling thread of its map took.
pub(crate) fn inside_inline_call() -> bool {
    CATCHING.get() == CatchScope::Here
}

#[cold]
pub(crate) fn words_of(payload: Box<dyn Any + Send>) -> String {
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

pub(crate) fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = text(info.payload());
    match info.location() {
        Some(location) => format!("panicked at {location}: {message}"),
        None => format!("panicked: {message}"),
    }
}

/// What a panic was raised with.
pub(crate) fn text(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a value that is not text)")
}
