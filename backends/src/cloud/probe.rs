//! Measures the cost of the first items before anything is charged. They run on the backend of the user's
//! options, and their results are used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cloud::notices::Probe;
use crate::cloud::run_handle::RunHandle;
use crate::cloud::run_state::Piece;
use crate::model::completion::{Completion, Outcome};
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{Backend, Run};

/// Enough work for an estimate; and the maximum wait for a batch.
const TARGET: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum batches; batches have one item at first.
const MAX_BATCHES: usize = 16;
/// Number of the batch that is being probed. The service gets none with this number, and nothing else is in flight.
const SEQ: u64 = 0;

/// Runs queued batches on `backend`. `None`: nothing was measured.
///
/// # Errors
/// If the function can't be prepared: it would fail in the cloud, too.
pub(super) fn probe(shared: &RunHandle, backend: &dyn Backend) -> Result<Option<Probe>, BackendError> {
    let mut run = match backend.open(Arc::clone(&shared.job)) {
        Ok(run) => run,
        Err(error) => {
            log::warn!("no estimate: {error}");
            return Ok(None);
        }
    };
    let started = Instant::now();
    let mut sum = Sum::default();
    for _ in 0..MAX_BATCHES {
        if started.elapsed() > TARGET || shared.lock().end.is_some() {
            break;
        }
        let Some(piece) = take(shared) else { break };
        if !try_one(shared, run.as_mut(), piece, started + TIMEOUT, &mut sum)? {
            break;
        }
    }
    run.close();
    Ok(sum.mean())
}

#[derive(Default)]
struct Sum {
    items: u64,
    cpu: Duration,
    bytes: u64,
}

impl Sum {
    fn mean(&self) -> Option<Probe> {
        let items = u32::try_from(self.items).ok().filter(|items| *items > 0)?;
        let result_bytes = self.bytes as f64 / f64::from(items);
        Some(Probe { items: self.items, cpu: self.cpu / items, result_bytes })
    }
}

fn take(shared: &RunHandle) -> Option<Piece> {
    let mut state = shared.lock();
    let piece = state.waiting.pop_front()?;
    state.on_sent(SEQ, piece.batch.id());
    Some(piece)
}

/// Runs one batch. Returns `false` if it is not finished in time; it is then sent to the service, unless it was
/// cancelled meanwhile.
fn try_one(
    shared: &RunHandle,
    run: &mut dyn Run,
    piece: Piece,
    until: Instant,
    sum: &mut Sum,
) -> Result<bool, BackendError> {
    let id: BatchId = piece.batch.id();
    let mut open = piece.batch.items();
    let mut parts: Vec<Completion> = Vec::new();
    let mut failed = None;
    if run.submit(piece.batch.clone()).is_ok() {
        while open > 0 {
            match run.poll(until) {
                Ok(Some(completion)) if completion.batch == id => {
                    open = open.saturating_sub(completion.items);
                    parts.push(completion);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            let state = shared.lock();
            if state.end.is_some() || state.is_cancelled(SEQ) {
                break;
            }
        }
    }
    if open > 0 {
        run.cancel(id);
        // Under one lock: the batch is in flight or in the queue, where a cancellation finds it.
        let mut state = shared.lock();
        if state.on_done(SEQ) {
            state.put(piece);
        }
        state.on_finished();
        shared.update_gauge(&state);
        return match failed {
            Some(error @ BackendError::Setup(_)) => Err(error),
            _ => Ok(false),
        };
    }
    for part in &parts {
        if let Outcome::Done(results) = &part.outcome {
            sum.items += u64::from(part.items);
            sum.cpu += results.cpu;
            sum.bytes += results.payload.bytes().len() as u64;
        }
    }
    shared.lock().on_done(SEQ);
    shared.finish_piece(parts, Vec::new());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudOptions;
    use crate::cloud::http::Http;
    use crate::cloud::session::Session;
    use crate::model::batch::{Batch, BatchBuilder};
    use crate::model::cost::Receipt;
    use crate::model::ids::JobId;
    use crate::{Capacity, Context, Descriptor, FunctionId, Job, SubmitError, Targets};

    /// A run that finishes nothing; the first poll cancels the batch, if it is to.
    struct Unfinished {
        handle: Arc<RunHandle>,
        cancels: Option<BatchId>,
    }

    impl Run for Unfinished {
        fn capacity(&mut self) -> Capacity {
            let targets = Targets { work: TARGET, least: TARGET, bytes: 1000 };
            Capacity { batches: 1, slots: 1, workers: 1, targets }
        }

        fn submit(&mut self, _batch: Batch) -> Result<(), SubmitError> {
            Ok(())
        }

        fn poll(&mut self, _deadline: Instant) -> Result<Option<Completion>, BackendError> {
            if let Some(batch) = self.cancels {
                self.handle.cancel(batch);
            }
            Ok(None)
        }

        fn cancel(&mut self, _batch: BatchId) {}

        fn close(self: Box<Self>) -> Receipt {
            Receipt::default()
        }
    }

    fn handle() -> Arc<RunHandle> {
        static NEVER: Descriptor = Descriptor::new(|| "never", |_| unreachable!("the run finishes nothing"));
        let job = Job {
            id: JobId::next(),
            function: FunctionId::of(&NEVER),
            context: Context::default(),
            label: None,
            items: Some(1),
            item_timeout: None,
            fail_fast: false,
            cancel_running: false,
        };
        let options = CloudOptions::new("http://127.0.0.1:1", "s".repeat(64).parse().expect("64 characters"));
        let http = Http::new(options.url.parse().expect("an address"), &options.secret);
        Arc::new(RunHandle::new(Arc::new(Session::new(options, http)), Arc::new(job)))
    }

    #[test]
    fn batch_that_is_cancelled_while_it_is_probed_is_not_sent() {
        for cancelled in [false, true] {
            let handle = handle();
            let mut builder = BatchBuilder::new(Some(1));
            builder.buffer().push(0);
            builder.added(1);
            let batch = builder.finish(JobId(1), BatchId(7), 0, 1000);
            handle.submit(batch).expect("there is room");
            let mut run =
                Unfinished { handle: Arc::clone(&handle), cancels: cancelled.then_some(BatchId(7)) };
            let piece = take(&handle).expect("it was submitted");
            let finished = try_one(&handle, &mut run, piece, Instant::now() + TIMEOUT, &mut Sum::default());
            assert!(!finished.expect("no error"));
            let state = handle.lock();
            assert_eq!((state.waiting.len(), state.in_flight), (usize::from(!cancelled), 0));
            assert!(state.to_cancel.is_empty(), "the service does not know the batch");
        }
    }
}
