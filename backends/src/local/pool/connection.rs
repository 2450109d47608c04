//! What a connected worker holds: its batches, the jobs that it knows, and the channel to it. Each method is one event, and
//! refuses what a worker can't truthfully report. Owned by `worker_life`, and changed under the pool's lock.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::local::ipc::arena::{SHARED_FROM, free_place};
use crate::local::ipc::channel::Channel;
use crate::local::ipc::frame_sender::{Frame, FrameSender};
use crate::local::ipc::shared_page::SharedPage;
use crate::model::batch::Batch;
use crate::model::death::Running;
use crate::model::frame::{DoneHead, Header, ToWorker};
use crate::model::ids::JobId;
use crate::model::protocol_error::ProtocolError;
use crate::model::refused_call::RefusedCall;

/// A batch in a worker's hands.
#[derive(Debug)]
pub(crate) struct AssignedBatch {
    pub(crate) batch: Batch,
    /// Items `0..limit` are the worker's; the rest was given back.
    pub(crate) limit: u32,
    /// Items were asked back, and the answer is not here yet.
    pub(crate) recalled: bool,
    /// No run waits for it any more.
    pub(crate) abandoned: bool,
    /// Where its payload lies in the area that the worker reads; `None` if it went through the channel.
    place: Option<Range<usize>>,
    /// What the sandbox refused to one of its items, as the worker reported.
    pub(crate) refused: Vec<RefusedCall>,
}

impl AssignedBatch {
    /// The items that are the worker's.
    pub(crate) fn into_rest(self) -> Batch {
        match self.limit == self.batch.items() {
            true => self.batch,
            false => self.batch.piece(self.batch.id(), 0, self.limit, self.batch.attempt()),
        }
    }
}

/// Items that a worker has given back.
#[derive(Debug)]
pub(crate) struct GivenBack {
    pub(crate) items: Batch,
    /// The worker has nothing of their batch any more.
    pub(crate) emptied: bool,
    pub(crate) abandoned: bool,
}

/// A worker that has connected.
#[derive(Debug)]
pub(crate) struct Connection {
    page: Arc<SharedPage>,
    sender: FrameSender,
    /// Batches sent and not answered, in the order they were sent, which is that in which they run.
    held: VecDeque<AssignedBatch>,
    opened: HashSet<JobId>,
    /// When it last answered, or got work while idle.
    progress: Instant,
    /// It has answered something: a worker can live here.
    has_answered: bool,
    /// Items it has answered.
    answered: u64,
    /// Batches it was given, and times that it has refused a job.
    given: u64,
    refusals: u64,
    /// Times that items were asked back of it, less those that it has given some.
    recalls: u64,
}

impl Connection {
    /// `own`: the worker is a process of this program.
    pub(crate) fn new(page: Arc<SharedPage>, own: bool, now: Instant) -> Connection {
        Connection {
            sender: FrameSender::new(Arc::clone(&page), own),
            page,
            held: VecDeque::new(),
            opened: HashSet::new(),
            progress: now,
            has_answered: false,
            answered: 0,
            given: 0,
            refusals: 0,
            recalls: 0,
        }
    }

    pub(crate) fn held(&self) -> &VecDeque<AssignedBatch> {
        &self.held
    }

    pub(crate) fn into_held(self) -> VecDeque<AssignedBatch> {
        self.held
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Items it has answered, and those that it holds.
    pub(crate) fn items_taken(&self) -> u64 {
        self.answered + self.held.iter().map(|held| u64::from(held.limit)).sum::<u64>()
    }

    /// How long ago it last answered, or got work while idle.
    pub(crate) fn since_progress(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.progress)
    }

    /// Whether the worker has lied about what it took from the channel.
    pub(crate) fn is_stuck(&self) -> bool {
        self.sender.is_stuck()
    }

    /// Whether it is through with a batch whose answer has not come.
    pub(crate) fn owes_answer(&self) -> bool {
        // The worker clears the running item after it has sent the answer, and leaves the ticket on the page.
        // So a held batch with this ticket and nothing that runs means that the answer was sent.
        let last = self.page.last_ticket();
        self.page.running().is_none() && self.held.iter().any(|held| held.batch.ticket() == last)
    }

    /// Items of a held batch that the worker has not begun.
    pub(crate) fn unbegun(&self, at: usize) -> u32 {
        let held = &self.held[at];
        // The page is the worker's to write, and may be late: a wrong number makes this estimate wrong and
        // nothing else, as the worker's own claims decide what is given back.
        let begun = match self.page.running() {
            Some((ticket, Running::Item(item))) if ticket == held.batch.ticket() => item + 1,
            // A batch whose function is still being prepared keeps its first item, or its worker would count
            // as idle.
            _ if at == 0 => 1,
            _ => 0,
        };
        held.limit.saturating_sub(begun)
    }

    /// Whether the worker knows this job.
    pub(crate) fn has_opened(&self, job: JobId) -> bool {
        self.opened.contains(&job)
    }

    /// Makes a job known, before its first batch. `opening` may give the worker a file over the channel first.
    pub(crate) fn open(&mut self, job: JobId, opening: impl FnOnce(&Channel) -> Frame) {
        if self.opened.insert(job) {
            // Once for each worker: the job stays known there until it is freed. A send that fails ends the
            // channel, and with it the worker.
            let frame = opening(&self.page.channel);
            self.sender.send(frame);
        }
    }

    /// Frees a job in the worker.
    pub(crate) fn forget(&mut self, job: JobId) {
        if self.opened.remove(&job) {
            self.sender.send(Header::frame(ToWorker::Close { job }, &[]).into());
        }
    }

    /// Sends a batch: a large payload through the shared memory, where there is room for it.
    pub(crate) fn hand(&mut self, batch: Batch, now: Instant) {
        let payload = batch.payload();
        let taken = self.held.iter().filter_map(|held| held.place.clone());
        let shared = payload.len() >= SHARED_FROM;
        let place = if shared { free_place(taken, payload.len()) } else { None };
        let frame = match &place {
            Some(place) => {
                // Before its header is sent, because the worker reads it as soon as it has that. The place stays taken
                // until the batch is answered: the worker reads the items in place.
                self.page.write_to_worker(place.start, payload);
                Header::placed(batch.message(), place.start, payload.len()).to_vec().into()
            }
            None => Frame::Batch(batch.clone()),
        };
        self.sender.send(frame);
        if self.held.is_empty() {
            self.progress = now;
        }
        self.given += 1;
        let limit = batch.items();
        let (recalled, abandoned) = (false, false);
        self.held.push_back(AssignedBatch { batch, limit, recalled, abandoned, place, refused: Vec::new() });
    }

    /// Asks for what is not begun of a held batch, or for half of it.
    pub(crate) fn recall(&mut self, at: usize, half: bool) {
        let held = &mut self.held[at];
        held.recalled = true;
        // The worker may give back once for each time that it was asked, see `on_returned`.
        self.recalls += 1;
        let ticket = held.batch.ticket();
        self.sender.send(Header::frame(ToWorker::Recall { ticket, half }, &[]).into());
    }

    /// No run waits for these batches any more: what is not begun of them is asked back, what runs may end.
    pub(crate) fn abandon(&mut self, which: impl Fn(&AssignedBatch) -> bool) {
        for at in 0..self.held.len() {
            if which(&self.held[at]) {
                self.held[at].abandoned = true;
                // Also where half was asked back before: now all that is not begun is wanted back.
                self.recall(at, false);
            }
        }
    }

    /// Ends the channel to the worker, which then leaves.
    pub(crate) fn close(&mut self) {
        self.sender.close();
    }

    /// A worker begins to send an answer of `length` bytes to a batch. Returns the most bytes that it may
    /// count.
    ///
    /// # Errors
    /// If it is longer than that, or answers nothing.
    pub(crate) fn on_answer_begun(&self, ticket: u64, length: u64, spare: u64) -> Result<u64, ProtocolError> {
        let held = self.held.iter().find(|held| held.batch.ticket() == ticket);
        // Asked when an answer begins, before any memory is reserved for it.
        let granted = held.ok_or(ProtocolError::Unasked)?.batch.granted();
        let most = granted.saturating_add(spare);
        if length > most {
            return Err(ProtocolError::AnswerTooLong { length, granted });
        }
        Ok(most)
    }

    /// A batch was answered, which the worker holds no longer. `None`: it had given back all of it. `strict`: the worker is
    /// trusted with nothing.
    ///
    /// # Errors
    /// If the worker does not hold it, or had fewer items of it.
    pub(crate) fn on_completed(
        &mut self,
        done: &DoneHead,
        strict: bool,
        now: Instant,
    ) -> Result<Option<AssignedBatch>, ProtocolError> {
        let Some(at) = self.held.iter().position(|held| held.batch.ticket() == done.ticket) else {
            // All of the batch was given back in the moment it began: an answer to none of it.
            return match done.items == 0 && !strict {
                true => Ok(None),
                false => Err(ProtocolError::Unasked),
            };
        };
        if done.items > self.held[at].limit {
            return Err(ProtocolError::TooManyItems);
        }
        if done.items == 0 && !self.held[at].recalled {
            // Sent again it would come back the same way, for ever.
            return Err(ProtocolError::NoItems);
        }
        self.progress = now;
        self.has_answered = true;
        self.answered += u64::from(done.items);
        Ok(self.held.remove(at))
    }

    /// Items from `from` on were given back. `None`: the answer to their batch came first, and said the same.
    ///
    /// # Errors
    /// If they were not asked back.
    pub(crate) fn on_returned(&mut self, ticket: u64, from: u32) -> Result<Option<GivenBack>, ProtocolError> {
        // The worker answers once for each time that it was asked. Anything else that it gives back breaks
        // the protocol.
        self.recalls = self.recalls.checked_sub(1).ok_or(ProtocolError::ReturnedUnasked)?;
        // The worker's two threads send: an answer of the runner may come before what its helper has given back.
        let Some(at) = self.held.iter().position(|held| held.batch.ticket() == ticket) else {
            return Ok(None);
        };
        let held = &mut self.held[at];
        if from >= held.limit {
            return Err(ProtocolError::ReturnedForeign);
        }
        if !held.recalled && !held.abandoned {
            // It would be sent them again, for ever.
            return Err(ProtocolError::ReturnedUnasked);
        }
        let items = held.batch.piece(held.batch.id(), from, held.limit, held.batch.attempt());
        held.limit = from;
        held.recalled = false;
        let (emptied, abandoned) = (from == 0, held.abandoned);
        if emptied {
            self.held.remove(at);
        }
        Ok(Some(GivenBack { items, emptied, abandoned }))
    }

    /// A job could not be prepared: the batches that the worker has of it are dropped, and counted. `open`: the job's run is.
    ///
    /// # Errors
    /// If it was not given the job.
    pub(crate) fn on_refused(&mut self, job: JobId, open: bool) -> Result<usize, ProtocolError> {
        self.refusals += 1;
        if self.refusals > self.given {
            return Err(ProtocolError::TooManyRefusals);
        }
        // The worker refuses each batch of the job that it had. If the job is closed by now, no run waits for
        // that.
        if !open {
            return Ok(0);
        }
        if !self.has_opened(job) {
            return Err(ProtocolError::ForeignRefusal);
        }
        let before = self.held.len();
        // All at once: the worker refuses each batch of the job, and the refusals after the first find none
        // of them here.
        self.held.retain(|held| held.batch.job() != job);
        Ok(before - self.held.len())
    }

    /// Calls were refused to items of a batch; the batch, if the worker holds it.
    pub(crate) fn on_denied(&mut self, ticket: u64) -> Option<&mut AssignedBatch> {
        self.held.iter_mut().find(|held| held.batch.ticket() == ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchBuilder;
    use crate::model::ids::BatchId;

    fn connection() -> (Connection, std::os::fd::OwnedFd) {
        let (page, stdin) = SharedPage::create().expect("a page");
        (Connection::new(Arc::new(page), true, Instant::now()), stdin)
    }

    fn batch(items: u32) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend((0..items).map(|item| item as u8));
        builder.added(items);
        builder.finish(JobId(1), BatchId(7), 100, 10)
    }

    /// A worker that holds a batch of five items, with the batch's ticket.
    fn busy() -> (Connection, std::os::fd::OwnedFd, u64) {
        let ((mut worker, stdin), batch) = (connection(), batch(5));
        let ticket = batch.ticket();
        worker.hand(batch, Instant::now());
        (worker, stdin, ticket)
    }

    fn done(ticket: u64, items: u32) -> DoneHead {
        DoneHead { ticket, items, ..DoneHead::default() }
    }

    #[test]
    fn an_answer_ends_what_is_held_and_a_second_one_is_refused() {
        let (mut worker, _stdin, ticket) = busy();
        let now = Instant::now();
        for strict in [false, true] {
            let refused = worker.on_completed(&done(ticket, 6), strict, now);
            assert!(matches!(refused, Err(ProtocolError::TooManyItems)), "{refused:?}");
            let refused = worker.on_completed(&done(ticket, 0), strict, now);
            assert!(matches!(refused, Err(ProtocolError::NoItems)), "{refused:?}");
        }
        assert_eq!((worker.items_taken(), worker.has_answered()), (5, false));
        let held = worker.on_completed(&done(ticket, 3), true, now).expect("it holds it").expect("a batch");
        assert_eq!((held.limit, worker.held().len(), worker.items_taken()), (5, 0, 3));
        assert!(worker.has_answered());
        let refused = worker.on_completed(&done(ticket, 3), false, now);
        assert!(matches!(refused, Err(ProtocolError::Unasked)), "{refused:?}");
    }

    #[test]
    fn items_come_back_once_for_each_time_that_they_were_asked() {
        let (mut worker, _stdin, ticket) = busy();
        let refused = worker.on_returned(ticket, 2);
        assert!(matches!(refused, Err(ProtocolError::ReturnedUnasked)), "{refused:?}");
        worker.recall(0, true);
        let back = worker.on_returned(ticket, 3).expect("it was asked").expect("a part of the batch");
        assert_eq!((back.items.first(), back.items.items(), back.emptied), (103, 2, false));
        assert!(worker.on_returned(ticket, 1).is_err());
        worker.recall(0, false);
        let refused = worker.on_returned(ticket, 3);
        assert!(matches!(refused, Err(ProtocolError::ReturnedForeign)), "{refused:?}");
        worker.recall(0, false);
        let back = worker.on_returned(ticket, 0).expect("it was asked").expect("the rest of the batch");
        assert_eq!((back.items.items(), back.emptied, worker.held().len()), (3, true, 0));
        // An answer to none of it may come behind that.
        let strict = worker.on_completed(&done(ticket, 0), true, Instant::now());
        assert!(matches!(strict, Err(ProtocolError::Unasked)), "{strict:?}");
        let none = worker.on_completed(&done(ticket, 0), false, Instant::now());
        assert!(matches!(none, Ok(None)), "{none:?}");
    }

    #[test]
    fn what_comes_back_behind_its_answer_says_nothing_new() {
        let (mut worker, _stdin, ticket) = busy();
        worker.abandon(|held| held.batch.ticket() == ticket);
        assert!(worker.held()[0].abandoned && worker.held()[0].recalled);
        worker.on_completed(&done(ticket, 2), true, Instant::now()).expect("it holds it");
        let back = worker.on_returned(ticket, 2);
        assert!(matches!(back, Ok(None)), "{back:?}");
    }

    #[test]
    fn a_job_is_refused_no_more_often_than_batches_were_given() {
        let (mut worker, _stdin) = connection();
        let opening = |_: &Channel| Frame::from(vec![0]);
        let refused = worker.on_refused(JobId(1), true);
        assert!(matches!(refused, Err(ProtocolError::TooManyRefusals)), "{refused:?}");
        for _ in 0..4 {
            worker.hand(batch(1), Instant::now());
        }
        let refused = worker.on_refused(JobId(1), true);
        assert!(matches!(refused, Err(ProtocolError::ForeignRefusal)), "{refused:?}");
        worker.open(JobId(1), opening);
        assert_eq!(worker.on_refused(JobId(1), true).expect("it has the job"), 4);
        worker.forget(JobId(1));
        assert_eq!(worker.on_refused(JobId(1), false).expect("it had the job"), 0);
        let refused = worker.on_refused(JobId(1), false);
        assert!(matches!(refused, Err(ProtocolError::TooManyRefusals)), "{refused:?}");
    }
}
