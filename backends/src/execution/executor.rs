//! Runs batches of one job in the calling thread.

use std::sync::atomic::AtomicU32;

use crate::execution::claims::Claims;
use crate::execution::function::FunctionId;
use crate::execution::stopwatch::Stopwatch;
use crate::execution::task::{Finished, Task, Work};
use crate::model::batch::Items;
use crate::model::completion::{Payload, Results};
use crate::model::failure::{FailureKind, ItemFailure};

/// Runs batches of one function in this process; a building block for a custom backend's workers.
#[allow(missing_debug_implementations)]
pub struct Executor {
    task: Box<dyn Task>,
    claims: Claims,
}

impl Executor {
    /// Finds the function in this executable and prepares it.
    ///
    /// # Errors
    /// If it is not in this executable, its context can't be read, or its `init` panicked.
    pub fn open(function: &FunctionId, context: &[u8]) -> Result<Executor, ItemFailure> {
        let descriptor = function.resolve().map_err(|message| ItemFailure {
            offset: 0,
            kind: FailureKind::Serialize,
            message,
        })?;
        Ok(Executor { task: descriptor.start(context)?, claims: Claims::new(0) })
    }

    /// Runs `count` items with the layout of `stride`. Returns the number of answered items first: all that
    /// the task accepts, or fewer if the results exceed `credit` bytes.
    ///
    /// The function runs on this thread, in this process.
    pub fn run(&mut self, payload: &[u8], stride: Option<u32>, count: u32, credit: u64) -> (u32, Results) {
        self.claims = Claims::new(count);
        let mut out = Vec::new();
        let time = Stopwatch::start();
        let running = AtomicU32::new(0);
        let mut work =
            Work::new(Items::new(payload, stride), count, credit, &self.claims, &running, &mut out);
        self.task.run(&mut work);
        let Finished { answered, failures, slowest, .. } = work.finish();
        let (wall, cpu) = time.stop();
        let slowest = (answered > 0 && !slowest.1.is_zero()).then_some(slowest);
        (
            answered,
            Results { payload: Payload::from(out), failures, wall, cpu, slowest, ..Results::default() },
        )
    }
}
