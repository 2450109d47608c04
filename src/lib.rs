//! `fastmap(func, iterable)` is [`Iterator::map`] whose function runs in worker processes: lazily, in order, bounded
//! in memory, and alive after a crash.
//!
//! ```no_run
//! use fastmap::{fastmap_main, Options};
//!
//! fn collatz(start: u64) -> u32 {
//!     let (mut n, mut steps) = (start, 0);
//!     while n != 1 {
//!         n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
//!         steps += 1;
//!     }
//!     steps
//! }
//!
//! fn run() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = fastmap::init(Options::new())?;
//!     let longest = config.fastmap(collatz, 1..1_000_000u64).map(Result::unwrap).max();
//!     println!("{longest:?}");
//!     Ok(())
//! }
//! fastmap_main!(run);
//! ```
//!
//! # How it works
//!
//! The unit that travels is the program itself. A worker is this executable, started again; `fastmap_main!` (or
//! [`enter`]) makes it one before `main` begins. A function is named by where it stands in the executable, so that no
//! closure is serialised and nothing is registered. Items and results travel as bytes ([`serde`]), in batches
//! whose size is found while running.
//!
//! What follows from this:
//! - The function runs in other processes (unless you set [`inline`](Options::inline)): it may abort, segfault, leak, spin or exit, and costs its own item.
//! - It sees no variables, statics or thread-locals of your process; a closure that captures is a compile-time error.
//!   State goes in by [`fastmap_with`](FastmapConfig::fastmap_with) (a context) or
//!   [`fastmap_init`](FastmapConfig::fastmap_init) (built once in each worker).
//! - Each item is answered exactly once, in order; it may be *executed* more than once where a worker died.
//! - Input is read just in time; what is read ahead is bounded in batches and in bytes. Results wait where an input waits: see
//!   [`feed()`].
//!
//! # Which one to call
//!
//! | you have | call |
//! |---|---|
//! | a function and items | [`FastmapConfig::fastmap`], [`fastmap()`], [`IteratorExt::fastmap`] |
//! | something all calls read | [`FastmapConfig::fastmap_with`] |
//! | something costly to build, or not serialisable | [`FastmapConfig::fastmap_init`] |
//! | items that you keep | [`FastmapConfig::fastmap_ref`] |
//! | results by the batch, or as they come | [`Fastmap::batches`], [`Fastmap::unordered`] |
//! | a type that the compact format can't carry | [`Json`] |
//! | items that come while the map runs | [`feed()`] |
//! | another place for the work | [`backends::Backend`] and [`Options::backend`] |

mod nested_backend;
pub(crate) mod runtime;
pub(crate) mod worker;
/// The programs of the documents are compiled by `cargo test --doc`.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide.md")]
    struct Guide;
}

mod checkpoint;
#[cfg(feature = "cloud")]
mod cloud;
#[cfg(not(feature = "cloud"))]
#[path = "no_cloud.rs"]
mod cloud;
mod codec;
mod config;
mod error;
mod feed;
mod floats;
#[cfg(fuzzing)]
pub mod fuzzing;
mod map;
mod options;
mod report;
mod settings;

/// The [`Backend`](backends::Backend) trait, its parts, and the worker pool of this machine.
pub use fastmap_backends as backends;

pub use crate::worker::entry::enter;
pub use codec::Json;
pub use config::{FastmapConfig, IteratorExt, fastmap, global_init, init};
pub use error::{Error, ErrorKind};
pub use feed::{Feed, Feeder, feed};
pub use map::{Batches, Fastmap, OnError, Unordered};
pub use options::{ExecPolicy, Options, Sandbox, Verbosity};
pub use report::{Stderr, stderr, suspend_progress};

/// Functions that this crate's macros call. Not part of the public interface.
#[doc(hidden)]
pub mod macro_support {
    pub use crate::worker::entry::{Constructor, enter_as_constructor};
    pub use fastmap_backends::local::note_at_start;
}

/// What to import for `iterator.fastmap(f)`.
pub mod prelude {
    pub use crate::IteratorExt;
}

/// Makes `main` of a function: a worker never gets there, the host calls it.
///
/// `run` is any `fn() -> impl Termination`: it may return nothing, a `Result` or an `ExitCode`.
///
/// # Examples
///
/// ```no_run
/// fn run() -> Result<(), fastmap::Error> {
///     for square in fastmap::fastmap(|n: u64| n * n, 0..10) {
///         println!("{}", square?);
///     }
///     Ok(())
/// }
/// fastmap::fastmap_main!(run);
/// ```
#[macro_export]
macro_rules! fastmap_main {
    ($run:path) => {
        const _: () = {
            // The loader calls what stands in this section before the constructors of libraries.
            #[used]
            #[unsafe(link_section = ".preinit_array")]
            static NOTE: extern "C" fn() = $crate::macro_support::note_at_start;
        };
        fn main() -> impl ::std::process::Termination {
            $crate::enter();
            $run()
        }
    };
}

/// Lets the `#[test]` functions of a test program use fastmap, under `cargo test` and `cargo nextest`.
///
/// To be written once in each test program (a file in `tests/`, or the crate root under `#[cfg(test)]`). It enters
/// before `main`, because the test harness's own `main` would run the tests in every worker. The program's other
/// constructors (registries of crates such as `inventory`, statics of C++) have run in a worker by then.
///
/// # Examples
///
/// ```no_run
/// # #![allow(clippy::test_attr_in_doctest)]
/// fastmap::test_support!();
///
/// #[test]
/// fn squares() {
///     let squares: Vec<u64> = fastmap::fastmap(|n: u64| n * n, 0..3).collect::<Result<_, _>>().unwrap();
///     assert_eq!(squares, [0, 1, 4]);
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! test_support {
    () => {
        const _: () = {
            unsafe extern "C" {
                // The linker's: where the section ends.
                static __init_array_end: $crate::macro_support::Constructor;
            }
            extern "C" fn enter(count: usize, arguments: usize, environment: usize) {
                // SAFETY: both lie in the section of constructors, which the loader has come to, with what it gives to
                // each of them.
                unsafe {
                    $crate::macro_support::enter_as_constructor(
                        &raw const ENTER,
                        &raw const __init_array_end,
                        [count, arguments, environment],
                    );
                }
            }
            // The loader calls what stands in this section before `main`.
            #[used]
            #[unsafe(link_section = ".init_array")]
            static ENTER: $crate::macro_support::Constructor = enter;
            // And what stands in this one before the constructors of libraries.
            #[used]
            #[unsafe(link_section = ".preinit_array")]
            static NOTE: extern "C" fn() = $crate::macro_support::note_at_start;
        };
    };
}
