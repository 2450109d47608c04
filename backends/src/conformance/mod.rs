//! A test kit for backends: tries whether an implementation of [`Backend`](crate::Backend) keeps what the trait
//! promises. Called from the tests of a backend; `promises` holds the trials, `trial` the
//! bookkeeping that every one of them shares (`answers` judges results, `hopeless` is a run that must fail), `test_functions` the functions that the workers run.
//!
//! The kit brings its own functions, which are part of every executable that calls it: a backend that starts this
//! executable elsewhere finds them there like any other. Some of them end the process that runs them.
//!
//! Nothing passes or fails here by being fast: trials wait for events, and what never comes is given up after a
//! minute. A backend that hangs is reported, not waited for.
//!
//! # Examples
//!
//! ```
//! use fastmap_backends::{Local, LocalOptions, conformance};
//!
//! # fastmap_backends::local::enter();
//! conformance::check(Local::new(LocalOptions::new(2)).unwrap()).unwrap();
//! ```

mod answers;
mod hopeless;
pub(crate) mod kit;
mod promises;
mod test_functions;
mod trial;

pub use kit::{Broken, Failed, Promise, check, check_all_but};
