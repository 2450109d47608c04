//! A small program of its own, as a function may start one: it maps, too.

use fastmap_test_programs::{count_this_process, report};

fn run() {
    count_this_process();
    println!("the helper's own main");
    report(fastmap::fastmap(|n: u64| n + 1, 0..100), |n| n + 1);
}

fastmap::fastmap_main!(run);
