//! A program that another one runs in jails. Started by hand it tells the names of its functions, as a client does when
//! it opens a run.

use std::sync::Arc;

use fastmap::backends::{Backend, BackendError, Job, Run};

/// Prints the name of the function of each map, and runs none.
#[derive(Debug)]
struct Tell;

impl Backend for Tell {
    fn name(&self) -> &'static str {
        "tell"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        println!("{} {}", job.function.offset, job.function.name);
        Err(BackendError::Other("told".to_owned()))
    }
}

fn cube(n: u64) -> u64 {
    n * n * n
}

fn run() {
    let config = fastmap_test_jails::config(Tell);
    assert!(config.fastmap(cube, [1]).next().is_some_and(|result| result.is_err()));
}
fastmap::fastmap_main!(run);
