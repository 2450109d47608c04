//! Test kit for backends: checks that an implementation of [`Backend`](crate::Backend) keeps what the trait
//! promises. Called from the tests of a backend. `promises` has the trials; `trial` is the bookkeeping that
//! they share. `answers` verifies results, `hopeless` is a run that must fail, and `test_functions` has the
//! functions that the workers run.
//!
//! The kit's functions are part of every executable that calls it: a backend that starts this executable
//! elsewhere finds them there like any other function. Some of them end the process that runs them.
//!
//! No trial depends on speed: trials wait for events, and time out after a minute. A backend that hangs is
//! reported, not waited for.
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
