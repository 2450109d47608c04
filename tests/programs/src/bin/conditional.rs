//! A program that enters only when it has arguments, which its workers have not.

use fastmap_test_programs::{count_this_process, report};

fn main() {
    count_this_process();
    if std::env::args().len() > 1 {
        fastmap::enter();
    }
    report(fastmap::fastmap(|n: u64| n, 0..100), |n| n);
}
