//! One run under observation: what was submitted, what each completion must look like, what is still missing.
//! Used by `promises`; every completion of every trial is judged here, whatever the trial is about.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::conformance::answers::judge;
use crate::conformance::test_functions::{Expected, Order, expected, puppet};
use crate::execution::function::FunctionId;
use crate::execution::job::Job;
use crate::model::batch::{Batch, BatchBuilder, Items};
use crate::model::completion::{Completion, Outcome};
use crate::model::death::{Running, WorkerLoss};
use crate::model::ids::{BatchId, JobId};
use crate::{Backend, Capacity, Run};

/// Results a batch may bring where a trial does not care.
pub(super) const CREDIT: u64 = 64 << 20;

/// Batches, or their items, that a trial has in flight where the run would take any number.
pub(super) const MANY: usize = 64;

/// An innocent item may be with a process that dies so often; a backend that can't tell what ran needs some of it.
const COLLATERAL: u32 = 20;

pub(super) struct Trial {
    run: Box<dyn Run>,
    job: Arc<Job>,
    until: Instant,
    batches: u64,
    items: Vec<Item>,
    /// Items without an answer that the run owes.
    open: usize,
    /// Items that the run holds now, those included that nobody waits for.
    held: usize,
    /// To be submitted again: given back, or lost with an item that is another one's victim.
    again: VecDeque<Batch>,
    pub(super) losses: Vec<WorkerLoss>,
}

struct Item {
    bytes: Vec<u8>,
    state: State,
    /// Bytes of results that its batch may bring.
    credit: u64,
    /// Deaths of processes that had it among others.
    collateral: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits to be submitted.
    Here,
    /// Submitted with that batch.
    With(BatchId),
    /// Submitted with a batch that was given up.
    GivenUp(BatchId),
    Answered,
    /// It ended a process.
    Died,
}

/// A job of that function, for a run of its own.
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

/// A context that no other trial has.
pub(super) fn own_context() -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec()
}

/// Items in the layout of a batch.
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
    /// A run of the puppet with a context of its own.
    pub(super) fn open(backend: &dyn Backend) -> Result<Trial, String> {
        Trial::open_with(backend, &own_context())
    }

    pub(super) fn open_with(backend: &dyn Backend, context: &[u8]) -> Result<Trial, String> {
        let job = job(puppet(), context);
        let run = backend.open(Arc::clone(&job)).map_err(|error| format!("open failed: {error}"))?;
        Ok(Trial {
            run,
            job,
            until: Instant::now() + PATIENCE,
            batches: 0,
            items: Vec::new(),
            open: 0,
            held: 0,
            again: VecDeque::new(),
            losses: Vec::new(),
        })
    }

    pub(super) fn capacity(&mut self) -> Result<Capacity, String> {
        let capacity = self.run.capacity();
        if capacity.batches == 0 && self.held == 0 {
            return Err("capacity() is 0 while the run holds nothing".to_owned());
        }
        Ok(capacity)
    }

    /// A batch of these orders, the next ones of the input.
    pub(super) fn batch(&mut self, orders: &[Order<'_>]) -> Batch {
        let items: Vec<Vec<u8>> = orders.iter().map(|order| order.item()).collect();
        self.batch_of(items, None, CREDIT)
    }

    /// A batch of these items, the next ones of the input.
    pub(super) fn batch_of(&mut self, items: Vec<Vec<u8>>, stride: Option<u32>, credit: u64) -> Batch {
        self.batches += 1;
        let first = self.items.len() as u64;
        let batch = batch(&self.job, BatchId(self.batches), first, &items, stride, credit);
        self.open += items.len();
        let state = State::Here;
        self.items.extend(items.into_iter().map(|bytes| Item { bytes, state, credit, collateral: 0 }));
        batch
    }

    /// Submits a batch as soon as the run has room for it.
    pub(super) fn submit(&mut self, batch: Batch) -> Result<(), String> {
        self.again.push_back(batch);
        loop {
            self.send_waiting()?;
            if self.again.is_empty() {
                return Ok(());
            }
            self.look()?;
        }
    }

    /// Hands in batches of these orders until the run takes no more.
    pub(super) fn fill(&mut self, orders: &[Order<'_>]) -> Result<(), String> {
        self.send_waiting()?;
        while self.again.is_empty() && self.held < MANY && self.capacity()?.batches > 0 {
            let batch = self.batch(orders);
            let refused = self.try_submit(batch)?;
            self.again.extend(refused);
        }
        Ok(())
    }

    /// Submits a batch of these orders as soon as the run has room for it.
    pub(super) fn order(&mut self, orders: &[Order<'_>]) -> Result<BatchId, String> {
        let batch = self.batch(orders);
        let id = batch.id();
        self.submit(batch)?;
        Ok(id)
    }

    /// Submits a batch now, or tells that it was refused.
    pub(super) fn try_submit(&mut self, batch: Batch) -> Result<Option<Batch>, String> {
        let sent = batch.clone();
        let range = self.range(sent.first(), sent.items())?;
        match self.run.submit(batch) {
            Ok(()) => {
                self.held += range.len();
                self.items[range].iter_mut().for_each(|item| item.state = State::With(sent.id()));
                Ok(None)
            }
            Err(error) if self.held == 0 => {
                Err(format!("{:?} was refused while the run held nothing: {error}", sent.id()))
            }
            Err(error) => {
                let refused = error.into_batch();
                self.same(&sent, &refused, 0..sent.items(), "refused")?;
                Ok(Some(refused))
            }
        }
    }

    fn send_waiting(&mut self) -> Result<(), String> {
        while !self.again.is_empty() && self.capacity()?.batches > 0 {
            let Some(batch) = self.again.pop_front() else { break };
            if let Some(refused) = self.try_submit(batch)? {
                self.again.push_front(refused);
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
                self.open -= 1;
            }
        }
    }

    /// Waits for the next completion and judges it; `Ok(false)` at the deadline.
    pub(super) fn poll(&mut self, deadline: Instant) -> Result<bool, String> {
        match self.run.poll(deadline) {
            Ok(Some(completion)) => self.judge(completion).map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(format!("the run ended by an error: {error}")),
        }
    }

    /// Waits for news, but not beyond the trial's end.
    fn look(&mut self) -> Result<(), String> {
        if Instant::now() > self.until {
            return Err(format!("{} within {PATIENCE:?}", self.missing()));
        }
        self.poll(Instant::now() + Duration::from_millis(100)).map(drop)
    }

    /// What was submitted and has no answer.
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

    /// Whether every item is answered.
    pub(super) fn is_settled(&self) -> bool {
        self.open == 0
    }

    /// Takes what is there, sends again what has to be, and waits a little.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.send_waiting()?;
        if !self.is_settled() {
            self.look()?;
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

    /// Waits until every item is answered, looks for answers too many, and closes the run.
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

    /// How many items ended a process.
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

    fn judge(&mut self, completion: Completion) -> Result<(), String> {
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
        let given_up = waited == 0;
        self.held -= range.len();
        match outcome {
            Outcome::Done(results) => {
                // The credit is looked at before each item: what was there before the last one had not reached it.
                let credit = self.items[range.start].credit.max(1);
                let items = range.clone().map(|index| (index, &self.items[index].bytes[..]));
                judge(items, credit, &self.job.context, &results).map_err(|why| format!("{about}: {why}"))?;
                self.items[range].iter_mut().for_each(|item| item.state = State::Answered);
                self.open -= waited;
            }
            Outcome::Returned(rest) => {
                self.judge_piece(batch, &range, &rest).map_err(|why| format!("{about}: {why}"))?;
                if !given_up {
                    self.items[range].iter_mut().for_each(|item| item.state = State::Here);
                    self.again.push_back(rest);
                }
            }
            Outcome::Lost(back, loss) => {
                self.judge_piece(batch, &range, &back).map_err(|why| format!("{about}: {why}"))?;
                if !given_up {
                    self.judge_loss(range, &back, &loss).map_err(|why| format!("{about}: {why}"))?;
                }
                self.losses.push(loss);
            }
        }
        Ok(())
    }

    /// A batch that comes back is what was submitted.
    fn judge_piece(&self, id: BatchId, range: &Range<usize>, piece: &Batch) -> Result<(), String> {
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

    fn same(&self, sent: &Batch, back: &Batch, range: Range<u32>, how: &str) -> Result<(), String> {
        let at = sent.first() as usize + range.start as usize..sent.first() as usize + range.end as usize;
        self.judge_piece(sent.id(), &at, back).map_err(|why| format!("{sent:?} was {how}, and {why}"))?;
        if (back.attempt(), back.result_credit(), back.stride())
            != (sent.attempt(), sent.result_credit(), sent.stride())
        {
            return Err(format!("{sent:?} was {how} and came back changed: {back:?}"));
        }
        Ok(())
    }

    /// Decides what becomes of lost items as the host's adapter does: the one that ran is taken out, the others are sent
    /// again; where nobody knows which it was, the batch is halved.
    fn judge_loss(&mut self, range: Range<usize>, back: &Batch, loss: &WorkerLoss) -> Result<(), String> {
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
                self.open -= 1;
                vec![0..at, at + 1..count]
            }
            // Of one item the first half is empty.
            None => vec![0..count / 2, count / 2..count],
        };
        pieces.retain(|piece| !piece.is_empty());
        for piece in pieces {
            for index in start + piece.start as usize..start + piece.end as usize {
                let item = &mut self.items[index];
                item.state = State::Here;
                item.collateral += 1;
                if item.collateral > COLLATERAL {
                    return Err(format!(
                        "item {index} was lost {COLLATERAL} times with others, the last: {}",
                        loss.death
                    ));
                }
            }
            self.batches += 1;
            self.again.push_back(back.piece(BatchId(self.batches), piece.start, piece.end, back.attempt()));
        }
        Ok(())
    }
}

/// Events of a trial are waited for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
