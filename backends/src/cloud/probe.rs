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
    state.in_flight += 1;
    Some(piece)
}

/// Runs one batch. Returns `false` if it is not finished in time; it is then sent to the service.
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
            if shared.lock().end.is_some() {
                break;
            }
        }
    }
    if open > 0 {
        run.cancel(id);
        let mut state = shared.lock();
        state.put(piece);
        state.in_flight -= 1;
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
    shared.finish_piece(parts, Vec::new());
    Ok(true)
}
