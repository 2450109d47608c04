//! What the compiler is told: which types may go to other threads, and what the names are.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::iter::FusedIterator;

use fastmap::{Batches, Error, ErrorKind, ExecPolicy, Fastmap, FastmapConfig, Options, Unordered, Verbosity};

fn shared<T: Send + Sync + 'static>() {}
fn cloned_and_shown<T: Clone + Debug>() {}

#[test]
fn a_configuration_and_an_error_may_go_to_any_thread() {
    shared::<FastmapConfig>();
    shared::<Error>();
    shared::<ErrorKind>();
    cloned_and_shown::<FastmapConfig>();
    cloned_and_shown::<Options>();
}

#[test]
fn an_error_is_one_for_question_mark() {
    fn error<T: StdError + Send + Sync + 'static>() {}
    fn run() -> Result<(), Box<dyn StdError + Send + Sync>> {
        Err(fastmap::init(Options::new().local_processes(0)).unwrap_err())?
    }
    error::<Error>();
    assert!(run().unwrap_err().is::<Error>());
}

#[test]
fn small_types_are_copied_and_compared() {
    fn plain<T: Copy + Eq + Debug>(_: T) {}
    plain(ErrorKind::Panic);
    plain(ExecPolicy::Local);
    plain(Verbosity::Quiet);
    assert_eq!(ExecPolicy::default(), ExecPolicy::Adaptive);
    assert_eq!(Verbosity::default(), Verbosity::Normal);
}

#[test]
fn the_adapters_are_fused_iterators_that_can_be_shown() {
    fn adapter<T: FusedIterator + Debug>() {}
    adapter::<Fastmap<std::ops::Range<u64>, u64>>();
    adapter::<Batches<std::ops::Range<u64>, u64>>();
    adapter::<Unordered<std::ops::Range<u64>, u64>>();
}
