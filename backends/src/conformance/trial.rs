//! Bookkeeping of one run under test: submitted batches, the required form of each completion, and missing
//! answers. Used by `promises`; every completion of every trial is verified here.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::conformance::answers::verify;
use crate::conformance::test_functions::{Expected, Order, expected, scripted};
use crate::execution::function::FunctionId;
use crate::execution::job::Job;
use crate::model::batch::{Batch, BatchBuilder, Items};
use crate::model::completion::{Completion, Outcome};
use crate::model::death::{Running, WorkerLoss};
use crate::model::ids::{BatchId, JobId};
use crate::{Backend, Capacity, Run};

/// Result credit of batches in trials that do not test it.
pub(super) const RESULT_CREDIT: u64 = 64 << 20;

/// Maximum batches or items in flight in a trial if the run accepts any number.
pub(super) const MAX_IN_FLIGHT: usize = 64;

/// Maximum process deaths that an innocent item may share: a backend may not know the running item.
const MAX_COLLATERAL: u32 = 20;

pub(super) struct Trial {
    run: Box<dyn Run>,
    job: Arc<Job>,
    deadline: Instant,
    batches: u64,
    items: Vec<Item>,
    /// Unanswered items that the run owes.
    unanswered: usize,
    /// Items in the run, including cancelled ones.
    in_run: usize,
    /// Batches to submit again: returned, or lost with another item that ended the process.
    resubmit: VecDeque<Batch>,
    pub(super) losses: Vec<WorkerLoss>,
}

struct Item {
    bytes: Vec<u8>,
    state: State,
    credit: u64,
    /// Process deaths that it shared with a lethal item.
    collateral: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waiting to be submitted.
    Here,
    /// Submitted with this batch.
    With(BatchId),
    /// Submitted with this batch, which was cancelled.
    GivenUp(BatchId),
    Answered,
    Died,
}

/// A job of this function with an id of its own.
pub(super) fn job(function: FunctionId, context: &[u8]) -> Arc<Job> {
    Arc::new(Job {
        id: JobId::next(),
        function,
        context: context.to_vec().into(),
        label: Some("conformance".to_owned()),
        items: None,
        item_timeout: None,
        fail_fast: false,
        cancel_running: false,
    })
}

/// A context that no other trial uses.
pub(super) fn own_context() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec()
}

/// Encodes items as a batch.
pub(super) fn batch(
    job: &Job,
    id: BatchId,
    first: u64,
    items: &[Vec<u8>],
    stride: Option<u32>,
    credit: u64,
) -> Batch {
    let mut builder = BatchBuilder::new(stride);
    for item in items {
        if stride.is_none() {
            builder.buffer().extend_from_slice(&(item.len() as u32).to_le_bytes());
        }
        builder.buffer().extend_from_slice(item);
        builder.added(1);
    }
    builder.finish(job.id, id, first, credit)
}

impl Trial {
    /// Opens a run of the scripted function with a unique context.
    pub(super) fn open(backend: &dyn Backend) -> Result<Trial, String> {
        Trial::open_with(backend, &own_context())
    }

    pub(super) fn open_with(backend: &dyn Backend, context: &[u8]) -> Result<Trial, String> {
        let job = job(scripted(), context);
        let run = backend.open(Arc::clone(&job)).map_err(|error| format!("open failed: {error}"))?;
        Ok(Trial {
            run,
            job,
            deadline: Instant::now() + TIMEOUT,
            batches: 0,
            items: Vec::new(),
            unanswered: 0,
            in_run: 0,
            resubmit: VecDeque::new(),
            losses: Vec::new(),
        })
    }

    pub(super) fn capacity(&mut self) -> Result<Capacity, String> {
        let capacity = self.run.capacity();
        if capacity.batches == 0 && self.in_run == 0 {
            return Err("capacity() is 0 while the run holds nothing".to_owned());
        }
        Ok(capacity)
    }

    /// A batch of these orders, as the next items of the input.
    pub(super) fn batch(&mut self, orders: &[Order<'_>]) -> Batch {
        let items: Vec<Vec<u8>> = orders.iter().map(|order| order.item()).collect();
        self.batch_of(items, None, RESULT_CREDIT)
    }

    /// A batch of these items, as the next ones of the input.
    pub(super) fn batch_of(&mut self, items: Vec<Vec<u8>>, stride: Option<u32>, credit: u64) -> Batch {
        self.batches += 1;
        let first = self.items.len() as u64;
        let batch = batch(&self.job, BatchId(self.batches), first, &items, stride, credit);
        self.unanswered += items.len();
        let state = State::Here;
        self.items.extend(items.into_iter().map(|bytes| Item { bytes, state, credit, collateral: 0 }));
        batch
    }

    /// Submits a batch as soon as the run accepts it.
    pub(super) fn submit(&mut self, batch: Batch) -> Result<(), String> {
        self.resubmit.push_back(batch);
        loop {
            self.send_waiting()?;
            if self.resubmit.is_empty() {
                return Ok(());
            }
            self.poll_once()?;
        }
    }

    /// Submits batches of these orders until the run accepts no more.
    pub(super) fn fill(&mut self, orders: &[Order<'_>]) -> Result<(), String> {
        self.send_waiting()?;
        while self.resubmit.is_empty() && self.in_run < MAX_IN_FLIGHT && self.capacity()?.batches > 0 {
            let batch = self.batch(orders);
            let refused = self.try_submit(batch)?;
            self.resubmit.extend(refused);
        }
        Ok(())
    }

    /// Submits a batch of these orders as soon as the run accepts it.
    pub(super) fn order(&mut self, orders: &[Order<'_>]) -> Result<BatchId, String> {
        let batch = self.batch(orders);
        let id = batch.id();
        self.submit(batch)?;
        Ok(id)
    }

    /// Submits a batch now; returns it if it was rejected.
    pub(super) fn try_submit(&mut self, batch: Batch) -> Result<Option<Batch>, String> {
        let sent = batch.clone();
        let range = self.range(sent.first(), sent.items())?;
        match self.run.submit(batch) {
            Ok(()) => {
                self.in_run += range.len();
                self.items[range].iter_mut().for_each(|item| item.state = State::With(sent.id()));
                Ok(None)
            }
            Err(error) if self.in_run == 0 => {
                Err(format!("{:?} was refused while the run held nothing: {error}", sent.id()))
            }
            Err(error) => {
                let refused = error.into_batch();
                self.verify_unchanged(&sent, &refused, 0..sent.items(), "refused")?;
                Ok(Some(refused))
            }
        }
    }

    fn send_waiting(&mut self) -> Result<(), String> {
        while !self.resubmit.is_empty() && self.capacity()?.batches > 0 {
            let Some(batch) = self.resubmit.pop_front() else { break };
            if let Some(refused) = self.try_submit(batch)? {
                self.resubmit.push_front(refused);
                break;
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, batch: BatchId) {
        self.run.cancel(batch);
        for item in &mut self.items {
            if item.state == State::With(batch) {
                item.state = State::GivenUp(batch);
                self.unanswered -= 1;
            }
        }
    }

    /// Waits for the next completion and verifies it; `Ok(false)` at the deadline.
    pub(super) fn poll(&mut self, deadline: Instant) -> Result<bool, String> {
        match self.run.poll(deadline) {
            Ok(Some(completion)) => self.on_completion(completion).map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(format!("the run ended by an error: {error}")),
        }
    }

    /// Polls once for up to 100 ms; fails at the trial's deadline.
    fn poll_once(&mut self) -> Result<(), String> {
        if Instant::now() > self.deadline {
            return Err(format!("{} within {TIMEOUT:?}", self.missing()));
        }
        self.poll(Instant::now() + Duration::from_millis(100)).map(drop)
    }

    /// Describes the submitted items without an answer.
    fn missing(&self) -> String {
        let open: Vec<String> = self
            .items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| match item.state {
                State::With(batch) => Some(format!("{index} (in batch {})", batch.0)),
                _ => None,
            })
            .collect();
        let listed = open.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
        format!("{} items were not answered, among them {listed}", open.len())
    }

    /// Returns whether every item is answered.
    pub(super) fn is_settled(&self) -> bool {
        self.unanswered == 0
    }

    /// Submits waiting batches, and polls once if items are unanswered.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.send_waiting()?;
        if !self.is_settled() {
            self.poll_once()?;
        }
        Ok(())
    }

    /// Waits until every item is answered.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        while !self.is_settled() {
            self.step()?;
        }
        Ok(())
    }

    /// Waits until every item is answered, checks that no more completions arrive, and closes the run.
    pub(super) fn finish(mut self) -> Result<(), String> {
        self.settle()?;
        self.capacity()?;
        while self.poll(Instant::now() + Duration::from_millis(5))? {}
        self.close();
        Ok(())
    }

    pub(super) fn close(self) {
        self.run.close();
    }

    /// Number of items that ended a process.
    pub(super) fn died(&self) -> usize {
        self.items.iter().filter(|item| item.state == State::Died).count()
    }

    fn range(&self, first: u64, items: u32) -> Result<Range<usize>, String> {
        let start = usize::try_from(first).unwrap_or(usize::MAX);
        let end = start.saturating_add(items as usize);
        if end > self.items.len() {
            return Err(format!("items {start}..{end} of an input of {} items", self.items.len()));
        }
        Ok(start..end)
    }

    fn on_completion(&mut self, completion: Completion) -> Result<(), String> {
        let Completion { batch, first, items, outcome } = completion;
        let about = format!("a completion of batch {} about items {first}+{items}", batch.0);
        if items == 0 {
            return Err(format!("{about} is about nothing"));
        }
        let range = self.range(first, items).map_err(|why| format!("{about}: {why}"))?;
        let mut waited = 0;
        for index in range.clone() {
            match self.items[index].state {
                State::With(holder) if holder == batch => waited += 1,
                State::GivenUp(holder) if holder == batch => {}
                State::Answered | State::Died => {
                    return Err(format!("{about}: item {index} was answered before"));
                }
                state => return Err(format!("{about}: item {index} is not its own ({state:?})")),
            }
        }
        let cancelled = waited == 0;
        self.in_run -= range.len();
        match outcome {
            Outcome::Done(results) => {
                // The worker checks the credit before each item: results before the last one are below it.
                let credit = self.items[range.start].credit.max(1);
                let items = range.clone().map(|index| (index, &self.items[index].bytes[..]));
                verify(items, credit, &self.job.context, &results)
                    .map_err(|why| format!("{about}: {why}"))?;
                self.items[range].iter_mut().for_each(|item| item.state = State::Answered);
                self.unanswered -= waited;
            }
            Outcome::Returned(rest) => {
                self.verify_piece(batch, &range, &rest).map_err(|why| format!("{about}: {why}"))?;
                if !cancelled {
                    self.items[range].iter_mut().for_each(|item| item.state = State::Here);
                    self.resubmit.push_back(rest);
                }
            }
            Outcome::Lost(back, loss) => {
                self.verify_piece(batch, &range, &back).map_err(|why| format!("{about}: {why}"))?;
                if !cancelled {
                    self.on_loss(range, &back, &loss).map_err(|why| format!("{about}: {why}"))?;
                }
                self.losses.push(loss);
            }
        }
        Ok(())
    }

    /// Checks that a returned batch equals the submitted items.
    fn verify_piece(&self, id: BatchId, range: &Range<usize>, piece: &Batch) -> Result<(), String> {
        if piece.id() != id || piece.first() != range.start as u64 || piece.items() as usize != range.len() {
            return Err(format!("it brings {piece:?}"));
        }
        if piece.job() != self.job.id {
            return Err(format!("it brings a batch of another job: {piece:?}"));
        }
        let items: Vec<&[u8]> = Items::new(piece.payload(), piece.stride()).collect();
        if items.len() != range.len()
            || !items.iter().zip(range.clone()).all(|(item, at)| *item == self.items[at].bytes)
        {
            return Err(format!("it brings other items than were submitted: {piece:?}"));
        }
        Ok(())
    }

    fn verify_unchanged(
        &self,
        sent: &Batch,
        back: &Batch,
        range: Range<u32>,
        how: &str,
    ) -> Result<(), String> {
        let at = sent.first() as usize + range.start as usize..sent.first() as usize + range.end as usize;
        self.verify_piece(sent.id(), &at, back).map_err(|why| format!("{sent:?} was {how}, and {why}"))?;
        if (back.attempt(), back.result_credit(), back.stride())
            != (sent.attempt(), sent.result_credit(), sent.stride())
        {
            return Err(format!("{sent:?} was {how} and came back changed: {back:?}"));
        }
        Ok(())
    }

    /// Handles lost items like the host's adapter: takes out the item that ran and submits the others again.
    /// If no running item is reported, the batch is halved.
    fn on_loss(&mut self, range: Range<usize>, back: &Batch, loss: &WorkerLoss) -> Result<(), String> {
        let lethal = |item: &Item| expected(&item.bytes, &self.job.context) == Expected::WorkerExit;
        let (start, count) = (range.start, back.items());
        if !self.items.iter().any(lethal) {
            return Err(format!("a worker died though no item ends one: {}", loss.death));
        }
        let suspect = match loss.running {
            Running::Item(at) if at >= count => {
                return Err(format!("item {at} of {count} is said to have run"));
            }
            Running::Item(at) if !lethal(&self.items[start + at as usize]) => {
                return Err(format!(
                    "item {} is accused and is innocent: {}",
                    start + at as usize,
                    loss.death
                ));
            }
            Running::Item(at) => Some(at),
            Running::Setup => {
                return Err(
                    "the function was prepared, and the death is said to be of preparing it".to_owned()
                );
            }
            Running::Unknown if count == 1 && lethal(&self.items[start]) => Some(0),
            Running::Unknown => None,
        };
        let mut pieces: Vec<Range<u32>> = match suspect {
            Some(at) => {
                self.items[start + at as usize].state = State::Died;
                self.unanswered -= 1;
                vec![0..at, at + 1..count]
            }
            // For a single item the first half is empty.
            None => vec![0..count / 2, count / 2..count],
        };
        pieces.retain(|piece| !piece.is_empty());
        for piece in pieces {
            for index in start + piece.start as usize..start + piece.end as usize {
                let item = &mut self.items[index];
                item.state = State::Here;
                item.collateral += 1;
                if item.collateral > MAX_COLLATERAL {
                    return Err(format!(
                        "item {index} was lost {MAX_COLLATERAL} times with others, the last: {}",
                        loss.death
                    ));
                }
            }
            self.batches += 1;
            self.resubmit.push_back(back.piece(
                BatchId(self.batches),
                piece.start,
                piece.end,
                back.attempt(),
            ));
        }
        Ok(())
    }
}

/// Maximum wait for the events of a trial.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
