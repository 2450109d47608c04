//! How a program is entered (host or worker), and the typed loop that a worker runs.
//! `enter` decides; [`FunctionId`]s made here lead a worker of the same executable to the loop for `F`, `T` and `R`.

use std::sync::atomic::{AtomicBool, Ordering};

use fastmap_backends::{local, startable};

use crate::error::{Error, ErrorKind};

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
