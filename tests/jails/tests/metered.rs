//! What the kernel counts for a run's jails: all of it, from the start of each to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::local::Jailed;
use fastmap_test_jails::{config, copy, jail, limits, pool, until};

fastmap::test_support!();

fn spin(milliseconds: u64) -> u64 {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(milliseconds) {
        std::hint::spin_loop();
    }
    if milliseconds == 31 {
        std::process::abort();
    }
    milliseconds
}

#[test]
fn all_that_the_jails_of_a_run_use_is_counted_start_and_end_included() {
    let (_folder, path) = copy(std::path::Path::new("/proc/self/exe"));
    let run = jail().for_run(7, 1 << 30).expect("groups");
    let jailed = Arc::new(Jailed::new(run, &path, limits()).expect("it runs here"));
    let pool = pool(&jailed, 2);
    pool.try_start(Duration::from_secs(30)).expect("it comes up");
    // Nothing was asked of it, and what it took to come up is counted.
    let started = jailed.cpu();
    assert!(started.total() > Duration::ZERO, "{started:?}");
    let config = config(pool);
    let results: Vec<_> = config.fastmap(spin, [30, 31, 30]).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2, "{results:?}");
    drop(config);
    until("the end of all workers", || jailed.cpu().living.is_empty());
    let (counted, all) = (jailed.cpu(), jailed.total_cpu().expect("it is a run's"));
    assert!(counted.dead >= Duration::from_millis(10), "{counted:?}");
    assert_eq!(counted.dead, all);
}
