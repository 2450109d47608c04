//! Starts workers while the calling thread goes on, and finds out when they are there: a run of items without
//! work. Made by `source` when it expects workers to be worth their cost.

use std::sync::Arc;
use std::time::Instant;

use fastmap_backends::{BatchBuilder, BatchId, Context, FunctionId, Job, JobId, Run};

use crate::codec;
use crate::error::Error;
use crate::map::inline::policy::Workers;
use crate::runtime::Runtime;
use crate::worker::typed_loop::Plain;

/// A run of items without work. It starts workers, and its answers show that they are there.
pub(crate) struct WarmUp {
    run: Box<dyn Run>,
    outstanding: usize,
    /// The run took no batch: it has failed, or takes nothing now.
    refused: bool,
}

impl WarmUp {
    /// # Errors
    /// If no run can be opened.
    pub(crate) fn new(runtime: &Runtime, workers: usize) -> Result<Self, Error> {
        let id = JobId::next();
        let job = Job {
            id,
            function: nothing_id(nothing),
            context: Context::default(),
            label: None,
            items: Some(workers as u64),
            item_timeout: None,
            cancel_running: false,
            fail_fast: false,
        };
        let mut run = runtime.backend()?.open(Arc::new(job)).map_err(Error::of_backend)?;
        let mut outstanding = 0;
        // A batch for each worker: the pool starts no more workers than there are outstanding batches.
        for index in 0..workers as u64 {
            let mut builder = BatchBuilder::new(codec::stride::<()>());
            if codec::put(&(), builder.buffer()).is_err() {
                break;
            }
            builder.added(1);
            // A batch that is refused gets no answer, and must not be waited for.
            if run.submit(builder.finish(id, BatchId(index), index, 0)).is_ok() {
                outstanding += 1;
            }
        }
        Ok(WarmUp { run, outstanding, refused: outstanding == 0 })
    }

    /// What is known of the workers, once all have answered or the run has failed.
    pub(crate) fn answered(&mut self) -> Option<Workers> {
        if self.refused {
            return Some(Workers::Refused);
        }
        // A deadline that has passed: the calling thread has items of its own and must not wait here.
        let now = Instant::now();
        while self.outstanding > 0 {
            match self.run.poll(now) {
                Ok(None) => return None,
                Ok(Some(_)) => self.outstanding -= 1,
                Err(error) => {
                    // The map does not fail with it, because the calling thread can run all of its items.
                    log::info!("staying in the calling thread: {error}");
                    return Some(Workers::Refused);
                }
            }
        }
        Some(Workers::Ready)
    }
}

/// What a worker runs to show that it is there.
fn nothing((): ()) {}

fn nothing_id<F: Fn(()) + Copy>(_: F) -> FunctionId {
    Plain::<F, (), ()>::ENTRY.id()
}
