//! The free function without `init`: it runs locally, whatever the variables say of the policy, and says so once. And
//! its workers, which begin before the harness's `main`, have what constructors of the program have made.
//! One test, which runs this program again to see its stderr.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

/// What other constructors of the program fill, as a registry of a crate or a static of C++ is filled.
static REGISTRY: AtomicU32 = AtomicU32::new(0);

extern "C" fn fill() {
    REGISTRY.fetch_add(7, Ordering::Relaxed);
}

/// Constructors of the program. The order in which the linker puts them is its own: some of many come after that of
/// `test_support!`.
macro_rules! constructors {
    ($($name:ident)*) => {
        $(#[used]
        #[unsafe(link_section = ".init_array")]
        static $name: extern "C" fn() = fill;)*
    };
}
constructors!(A B C D);
fastmap::test_support!();
constructors!(V W X Y Z);

mod common;

use fastmap::fastmap;
use fastmap::prelude::*;

#[test]
fn without_init_it_runs_locally_with_one_warning() {
    if common::case().is_some() {
        return maps();
    }
    let mut child = common::child("without_init_it_runs_locally_with_one_warning", "maps");
    child.env("FASTMAP_VERBOSITY", "quiet");
    child.env("FASTMAP_EXEC_POLICY", "cloud").env("FASTMAP_SECRET", "not to be used");
    let stderr = common::stderr_of(child);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("warning") && stderr.contains("init"), "{stderr}");
    assert!(!stderr.contains("not to be used"), "{stderr}");
}

/// In the child: several maps, from two threads.
fn maps() {
    let squares = || common::values((0..500u64).fastmap(|n| n * n));
    let thread = std::thread::spawn(squares);
    assert_eq!(squares(), thread.join().unwrap());
    // Each of the constructors has run once in each process.
    let seen = common::values(fastmap(|()| REGISTRY.load(Ordering::Relaxed), vec![(); 10]));
    assert_eq!((REGISTRY.load(Ordering::Relaxed), seen), (63, vec![63; 10]));
    let pids = common::values(fastmap(|()| std::process::id(), vec![(); 100]));
    assert!(pids.iter().all(|pid| *pid != std::process::id()), "not in the host");
}
