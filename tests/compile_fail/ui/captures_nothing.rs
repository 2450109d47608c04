//! Everything that is taken: functions, methods, closures that capture nothing.

use fastmap::prelude::*;
use fastmap::{ExecPolicy, FastmapConfig, Options, Verbosity};

fn double(n: u64) -> u64 {
    2 * n
}

fn maps(config: &FastmapConfig) {
    let closure = |n: u64| n + 1;
    drop(config.fastmap(double, 0..3));
    drop(config.fastmap(closure, 0..3));
    drop(config.fastmap(move |n: u64| n + 1, 0..3));
    drop(config.fastmap(u64::count_ones, 0..3));
    drop(config.fastmap_with(7, |context: &u64, n: u64| context + n, 0..3));
    drop(config.fastmap_init(|| 0, |sum: &mut u64, n: u64| *sum + n, 0..3));
    drop(config.fastmap_ref(String::len, &[String::new()]));
    drop((0..3u64).fastmap(double));
}

fn main() {
    fastmap::enter();
    let options = Options::new().exec_policy(ExecPolicy::Local).verbosity(Verbosity::Quiet);
    fastmap::global_init(options.clone()).unwrap();
    maps(&fastmap::init(options).unwrap());
}
