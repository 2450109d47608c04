//! A host whose jailed workers never end by themselves. It prints their processes, and then waits to be killed.

use std::time::Duration;

use fastmap_test_jails::{acts, jailed, limits, pool, until};

fn run() {
    let local = pool(&jailed(limits()), 2);
    let config = fastmap_test_jails::config(local.clone());
    std::thread::spawn(move || config.fastmap(|(): ()| acts::spin(), std::iter::repeat(())).count());
    until("two workers", || local.workers().len() == 2);
    for worker in local.workers() {
        println!("{worker}");
    }
    println!("running");
    std::thread::sleep(Duration::from_secs(600));
}
fastmap::fastmap_main!(run);
