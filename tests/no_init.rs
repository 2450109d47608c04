//! The free function without `init`: it runs locally, whatever the variables say of the policy, and says so once.
//! One test, which runs this program again to see its stderr.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

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
    let pids = common::values(fastmap(|()| std::process::id(), vec![(); 100]));
    assert!(pids.iter().all(|pid| *pid != std::process::id()), "not in the host");
}
