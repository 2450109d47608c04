//! Table of the work that a gateway has submitted and still wants: the receiver of each outcome, what agents may ask
//! about it, and the files that they may fetch. Decides; `publisher` does what is decided.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use fastmap_backends::cloud::hexadecimal;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::sync::oneshot;

use crate::dispatch::jetstream::gateway::answered_items::AnsweredItems;
use crate::dispatch::jetstream::gateway::pending_work::{Ack, DELIVERIES, Overdue, PendingItem, Requeued};
use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::messages::{FileRef, Files, Reply, Request};
use crate::dispatch::jetstream::subjects::Names;
use crate::dispatch::work::{RunSpec, Task, Upload, Work, WorkOutcome};
use crate::keys::random;

/// Workers that end with their run have been reported for within this.
const REPORTED: Duration = Duration::from_mins(2);
/// Reports of a run by which one that comes again is known.
const REPORTS: usize = 64;

/// Looks at the queue in which it must be missing before it is sent again: it may be on its way.
const MISSING: u32 = 2;

/// All pending items of a gateway, by the token that agents know.
#[derive(Debug)]
pub(super) struct PendingTable {
    state: Mutex<State>,
    names: Names,
}

#[derive(Debug, Default)]
struct State {
    pub(super) pending: HashMap<String, PendingItem>,
    /// Files by the names that stand in work.
    files: HashMap<String, PathBuf>,
    runs: HashMap<String, Files>,
    /// Runs by the names under which agents report what their workers use: those of their executables.
    payers: HashMap<String, OfRun>,
    answered: AnsweredItems,
    next: u64,
    closed: bool,
}

/// What is known of a run whose workers' use is reported.
#[derive(Debug)]
struct OfRun {
    run: String,
    ended: Option<Instant>,
    /// Numbers of the last reports, by which one that comes again is known, and whether each is charged.
    reports: VecDeque<(u64, bool)>,
}

/// What to do about a report of what workers have used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Charge it to this run.
    Charge(String),
    /// It was here before, and is charged.
    Charged,
    /// It was here before, and is being charged.
    UnderWay,
    /// No run of that name has workers.
    Unknown,
}

/// What is to be answered to an agent.
#[derive(Debug)]
pub(super) enum Answer {
    Now(Reply),
    /// This, and other agents may have the same work: it is over for them.
    Over(Reply),
    /// The bytes of a file from there on.
    File(PathBuf, u64),
}

/// What the dispatcher needs of an item that was registered.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) token: String,
    pub(super) n: u64,
    pub(super) files: Files,
    pub(super) outcome: oneshot::Receiver<WorkOutcome>,
    pub(super) ack: Ack,
}

/// A name that can't be guessed.
pub(super) fn name() -> String {
    // Without random numbers names could be guessed: the service does not go on.
    hexadecimal(&random::<16>().expect("the kernel gives random numbers"))
}

impl PendingTable {
    pub(super) fn new(names: Names) -> Self {
        PendingTable { state: Mutex::default(), names }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock_unpoisoned()
    }

    /// `None`: no more is taken.
    pub(super) fn register(&self, work: Work) -> Option<Registered> {
        let mut state = self.lock();
        // Under the lock of the table: nothing is registered after `close`.
        if state.closed {
            return None;
        }
        let (reply, outcome) = oneshot::channel();
        let (token, ack, files) = (name(), Ack::default(), state.files(&work.spec));
        state.next += 1;
        let n = state.next;
        let item = PendingItem {
            work,
            n,
            attempt: 0,
            reply,
            ack: Arc::clone(&ack),
            // The agent that gets the first delivery begins without a question, and is counted here.
            leases: 1,
            parts: Vec::new(),
            sent: Instant::now(),
            missing: 0,
            position: None,
            delivered: None,
            deliveries: 0,
        };
        state.pending.insert(token.clone(), item);
        Some(Registered { token, n, files, outcome, ack })
    }

    /// Drops an item whose submitter is gone. `false`: it was answered before.
    pub(super) fn remove(&self, token: &str) -> bool {
        self.lock().pending.remove(token).is_some()
    }

    /// Answers an item as lost: its client is to send it again.
    pub(super) fn lose(&self, token: &str) {
        let item = self.lock().pending.remove(token);
        if let Some(item) = item {
            item.answer(WorkOutcome::Lost);
        }
    }

    /// Answers an item that the queue does not take, with the queue's reason.
    pub(super) fn refuse(&self, token: &str, why: String) {
        let item = self.lock().pending.remove(token);
        if let Some(item) = item {
            item.answer(WorkOutcome::Refused(why));
        }
    }

    /// Answers a batch as cancelled; returns its token and its number, or `None` if it is not under way here.
    pub(super) fn cancel(&self, run: &str, seq: u64) -> Option<(String, u64)> {
        let is = |item: &PendingItem| match &item.work.task {
            Task::Batch(batch) => batch.seq == seq && item.work.spec.run == run,
            // A check has no seq, and ends with its run.
            Task::Check => false,
        };
        let mut state = self.lock();
        let token = state.pending.iter().find(|(_, item)| is(item))?.0.clone();
        let item = state.pending.remove(&token)?;
        drop(state);
        let n = item.n;
        item.answer(WorkOutcome::Cancelled);
        Some((token, n))
    }

    /// Answers all items of a run as cancelled; returns their number.
    pub(super) fn end_run(&self, run: &str) -> usize {
        let mut state = self.lock();
        let over: Vec<PendingItem> =
            state.pending.extract_if(|_, item| item.work.spec.run == run).map(|(_, item)| item).collect();
        if let Some(files) = state.runs.remove(run) {
            // Workers end with their run, and their last CPU time is reported after that: the name stays good
            // for reports for a while. For files it is worth nothing from now on.
            if let Some(of_run) = state.payers.get_mut(&files.executable.name) {
                of_run.ended = Some(Instant::now());
            }
            state.payers.retain(|_, of_run| of_run.ended.is_none_or(|ended| ended.elapsed() < REPORTED));
            for named in std::iter::once(files.executable).chain(files.context) {
                state.files.remove(&named.name);
            }
        }
        drop(state);
        let count = over.len();
        for item in over {
            item.answer(WorkOutcome::Cancelled);
        }
        count
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Tenants that wait for something.
    pub(super) fn tenants(&self) -> Vec<i64> {
        let mut tenants: Vec<i64> = self.lock().pending.values().map(|item| item.work.spec.account).collect();
        // Callers search in it by halves.
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }

    pub(super) fn len(&self) -> usize {
        self.lock().pending.len()
    }

    /// Whether an item has waited for longer than this since it was last submitted.
    pub(super) fn waits_for(&self, long: Duration) -> bool {
        self.lock().pending.values().any(|item| item.sent.elapsed() > long)
    }

    /// Items that have waited for longer than `long` and are missing in the queue for the second time: each
    /// gets a new attempt, or is given up.
    pub(super) fn missing(&self, long: Duration, queued: impl Fn(u64) -> bool) -> Vec<Requeued> {
        let mut requeued = Vec::new();
        let mut lost = Vec::new();
        let mut state = self.lock();
        for (token, item) in &mut state.pending {
            // Found again, or sent again: what was missed before counts no more.
            if queued(item.n) || item.sent.elapsed() <= long {
                item.missing = 0;
                continue;
            }
            item.missing += 1;
            if item.missing < MISSING {
                continue;
            }
            // As a lease more: work that the queue loses again and again, or that an agent takes out of it,
            // is given up in the end.
            item.requeue();
            if item.leases > DELIVERIES {
                lost.push(token.clone());
            } else {
                requeued.push((token.clone(), item.work.clone(), item.n, item.attempt));
            }
        }
        let lost: Vec<PendingItem> = lost.iter().filter_map(|token| state.pending.remove(token)).collect();
        let requeued = requeued
            .into_iter()
            .map(|(token, work, n, attempt)| Requeued {
                files: state.files(&work.spec),
                token,
                work,
                n,
                attempt,
            })
            .collect();
        drop(state);
        for item in lost {
            item.answer(WorkOutcome::Lost);
        }
        requeued
    }

    /// Where an item stands in the queue.
    pub(super) fn set_position(&self, token: &str, position: u64) {
        if let Some(item) = self.lock().pending.get_mut(token) {
            item.position = Some(position);
        }
    }

    /// Items of a tenant that agents have kept for too long; the queue has delivered all up to the place
    /// `delivered`. Each gets a new attempt, or is given up (`None`). Their numbers and tokens are for the
    /// queue and for agents, which are to drop them.
    pub(super) fn overdue(&self, account: i64, delivered: u64, patience: Duration) -> Vec<Overdue> {
        let (mut overdue, mut state, now) = (Vec::new(), self.lock(), Instant::now());
        for (token, item) in &mut state.pending {
            // A consumer delivers in the order of the stream: all up to this place has been in an agent's
            // hands.
            let is_delivered = item.position.is_some_and(|position| position <= delivered);
            if item.work.spec.account != account || !is_delivered {
                continue;
            }
            // The time begins at the first look that finds it delivered. Before that it waits for its turn,
            // which may take any time.
            let since = *item.delivered.get_or_insert(now);
            if item.time_limit(patience).is_some_and(|time_limit| now.duration_since(since) > time_limit) {
                item.requeue();
                let requeued = (item.work.clone(), item.n, item.attempt, item.leases <= DELIVERIES);
                overdue.push((token.clone(), requeued));
            }
        }
        let mut all = Vec::new();
        for (token, (work, n, attempt, wanted)) in overdue {
            let run = work.spec.run.clone();
            let files = state.files(&work.spec);
            // The item stays in the table, under the same token: if the agent answers before the next one
            // does, its outcome counts.
            let requeued = wanted.then(|| Requeued { token: token.clone(), work, n, attempt, files });
            all.push(Overdue { token, run, n, requeued });
        }
        all
    }

    /// What to do about a report of use, under that name and of that number.
    pub(super) fn report(&self, name: &str, report: u64) -> Report {
        let mut state = self.lock();
        let Some(of_run) = state.payers.get_mut(name) else { return Report::Unknown };
        if let Some((_, charged)) = of_run.reports.iter().find(|(known, _)| *known == report) {
            return if *charged { Report::Charged } else { Report::UnderWay };
        }
        // Noted before it is charged: an agent that gets no answer within some seconds sends the report
        // again, while the charge may be under way.
        of_run.reports.truncate(REPORTS - 1);
        of_run.reports.push_front((report, false));
        Report::Charge(of_run.run.clone())
    }

    /// A report is charged, or could not be: then it will come again, and must not be taken for one that is.
    pub(super) fn end_report(&self, name: &str, report: u64, charged: bool) {
        let mut state = self.lock();
        let Some(of_run) = state.payers.get_mut(name) else { return };
        if charged {
            of_run
                .reports
                .iter_mut()
                .filter(|(known, _)| *known == report)
                .for_each(|(_, done)| *done = true);
        } else {
            of_run.reports.retain(|(known, _)| *known != report);
        }
    }

    /// Answer to an agent's request; `room`: bytes in one message.
    pub(super) fn request(&self, about: &str, request: Request, room: usize) -> Answer {
        if about == messages::PING {
            return Answer::Now(Reply::Yes(Bytes::new()));
        }
        let mut state = self.lock();
        // Files and items have random names of one kind, so that a request needs no word on which of them it
        // is about.
        if let (Some(path), Request::Get(offset)) = (state.files.get(about), &request) {
            return Answer::File(path.clone(), *offset);
        }
        let Some(item) = state.pending.get_mut(about) else {
            return Answer::Now(state.answered.repeated(about, &request));
        };
        let yes = Reply::Yes(Bytes::new());
        let mut taker = None;
        let (over, outcome) = match request {
            Request::Claim(delivered) => {
                // One delivery was counted when the item was registered. With 0 an agent asks about work that
                // it has; a claim whose answer was lost comes again with the same number.
                item.leases += u32::from(delivered > item.deliveries.max(1));
                item.deliveries = item.deliveries.max(delivered);
                // The next agent's claim counts the one that has lost it, whether that agent said so or died.
                if item.leases <= DELIVERIES {
                    return Answer::Now(yes);
                }
                (Reply::No, Ok(WorkOutcome::Lost))
            }
            // Not counted here: the next agent's claim does that. After the last delivery there is no next
            // one, and the work is lost at once.
            Request::Nack if item.leases < DELIVERIES => return Answer::Now(yes),
            Request::Nack => (Reply::No, Ok(WorkOutcome::Lost)),
            Request::Unstarted => {
                item.leases = item.leases.saturating_sub(1);
                return Answer::Now(yes);
            }
            // Reports are about runs: see `report`.
            Request::Used(..) => return Answer::Now(Reply::No),
            Request::Get(offset) => return Answer::Now(item.payload(offset, room)),
            Request::Part(offset, total, part) => return Answer::Now(item.part(offset, total, &part)),
            Request::Outcome(ack, body) => {
                // Without bytes it refers to the parts that were sent before.
                let body = if body.is_empty() { std::mem::take(&mut item.parts).into() } else { body };
                let outcome = messages::decode_outcome(&body, item.items());
                taker = Some(ack.clone());
                // The agent names this subject, and the gateway will publish to it: nothing but a subject for
                // acknowledgements of this tenant's work is accepted.
                if outcome.is_ok() && self.names.is_ack(&ack, item.work.spec.account) {
                    *item.ack.lock_unpoisoned() = Some(ack);
                }
                (yes, outcome)
            }
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                // The agent gets a no and takes the work out of the queue. The item stays: reconciliation
                // finds it missing there, and sends it again.
                tracing::warn!(run = item.work.spec.run, %error, "an agent has sent a malformed answer");
                return Answer::Now(Reply::No);
            }
        };
        // Removed before it is answered, under one lock: of two agents that answer, the second gets another
        // answer than the first.
        let item = state.pending.remove(about);
        if let Some(taker) = taker {
            state.answered.add(about, taker);
        }
        drop(state);
        match item {
            Some(item) if item.leases > 1 => {
                item.answer(outcome);
                Answer::Over(over)
            }
            Some(item) => {
                item.answer(outcome);
                Answer::Now(over)
            }
            None => Answer::Now(over),
        }
    }
}

impl State {
    /// Names of a run's files, from its first work to its end.
    fn files(&mut self, spec: &RunSpec) -> Files {
        if let Some(files) = self.runs.get(&spec.run) {
            return files.clone();
        }
        // A new name for each run: an agent that has worked on another run of the same program can't fetch
        // anything by it.
        let mut named = |upload: &Upload| {
            let named = FileRef { hash: upload.hash.clone(), name: name() };
            self.files.insert(named.name.clone(), upload.path.clone());
            named
        };
        let files = Files { executable: named(&spec.executable), context: spec.context.as_ref().map(named) };
        let of_run = OfRun { run: spec.run.clone(), ended: None, reports: VecDeque::new() };
        self.payers.insert(files.executable.name.clone(), of_run);
        self.runs.insert(spec.run.clone(), files.clone());
        files
    }
}

#[cfg(test)]
mod tests;
