//! Table of the work that a gateway has submitted and still wants: the receiver of each verdict, what agents may ask
//! about it, and the files that they may fetch. Decides; `publisher` does what is decided.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use fastmap_backends::cloud::hexadecimal;
use tokio::sync::oneshot;

use crate::dispatch::jetstream::gateway::pending_work::{Ack, Again, DELIVERIES, Kept, PendingItem};
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

/// All flights of a gateway, by the token that agents know.
#[derive(Debug)]
pub(super) struct PendingTable {
    state: Mutex<State>,
    names: Names,
}

#[derive(Debug, Default)]
struct State {
    pub(super) flights: HashMap<String, PendingItem>,
    /// Files by the names that stand in work.
    files: HashMap<String, PathBuf>,
    runs: HashMap<String, Files>,
    /// Runs by the names under which agents report what their workers use: those of their executables.
    payers: HashMap<String, OfRun>,
    next: u64,
    closed: bool,
}

/// What is known of a run whose workers' use is reported.
#[derive(Debug)]
struct OfRun {
    run: String,
    ended: Option<Instant>,
    /// The last reports: one that comes again is charged already.
    reports: VecDeque<u64>,
}

/// What to do about a report of what workers have used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Charge it to this run.
    Charge(String),
    /// It was here before, and is charged or about to be.
    Again,
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

/// A flight that was entered.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) token: String,
    pub(super) n: u64,
    pub(super) files: Files,
    pub(super) verdict: oneshot::Receiver<WorkOutcome>,
    pub(super) ack: Ack,
}

/// What nobody can guess.
pub(super) fn name() -> String {
    // Without random numbers nothing of this service works.
    hexadecimal(&random::<16>().expect("the kernel gives random numbers"))
}

impl PendingTable {
    pub(super) fn new(names: Names) -> Self {
        PendingTable { state: Mutex::default(), names }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: no more is taken.
    pub(super) fn enter(&self, work: Work) -> Option<Entered> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let (reply, verdict) = oneshot::channel();
        let (token, ack, files) = (name(), Ack::default(), state.files(&work.spec));
        state.next += 1;
        let n = state.next;
        let flight = PendingItem {
            work,
            n,
            attempt: 0,
            reply,
            ack: Arc::clone(&ack),
            leases: 1,
            parts: Vec::new(),
            sent: Instant::now(),
            missing: 0,
            place: None,
            delivered: None,
        };
        state.flights.insert(token.clone(), flight);
        Some(Entered { token, n, files, verdict, ack })
    }

    /// Nobody waits for it any more.
    pub(super) fn remove(&self, token: &str) -> bool {
        self.lock().flights.remove(token).is_some()
    }

    /// It can't be had: the client is to send it again.
    pub(super) fn lose(&self, token: &str) {
        let flight = self.lock().flights.remove(token);
        if let Some(flight) = flight {
            flight.answer(WorkOutcome::Lost);
        }
    }

    /// The queue does not take it, for that reason.
    pub(super) fn refuse(&self, token: &str, why: String) {
        let flight = self.lock().flights.remove(token);
        if let Some(flight) = flight {
            flight.answer(WorkOutcome::Refused(why));
        }
    }

    /// Nobody wants a batch any more; gives its token and its number.
    pub(super) fn cancel(&self, run: &str, seq: u64) -> Option<(String, u64)> {
        let is = |flight: &PendingItem| match &flight.work.task {
            Task::Batch(batch) => batch.seq == seq && flight.work.spec.run == run,
            Task::Check => false,
        };
        let mut state = self.lock();
        let token = state.flights.iter().find(|(_, flight)| is(flight))?.0.clone();
        let flight = state.flights.remove(&token)?;
        drop(state);
        let n = flight.n;
        flight.answer(WorkOutcome::Cancelled);
        Some((token, n))
    }

    /// All of a run is over. How many there were.
    pub(super) fn end_run(&self, run: &str) -> usize {
        let mut state = self.lock();
        let over: Vec<PendingItem> = state
            .flights
            .extract_if(|_, flight| flight.work.spec.run == run)
            .map(|(_, flight)| flight)
            .collect();
        if let Some(files) = state.runs.remove(run) {
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
        for flight in over {
            flight.answer(WorkOutcome::Cancelled);
        }
        count
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Tenants that wait for something.
    pub(super) fn tenants(&self) -> Vec<i64> {
        let mut tenants: Vec<i64> =
            self.lock().flights.values().map(|flight| flight.work.spec.account).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }

    pub(super) fn len(&self) -> usize {
        self.lock().flights.len()
    }

    /// Whether something has waited for so long that it should be looked for.
    pub(super) fn waits_for(&self, long: Duration) -> bool {
        self.lock().flights.values().any(|flight| flight.sent.elapsed() > long)
    }

    /// Those that have waited for so long and are not among what the queue holds, for the second time: each gets a new
    /// attempt, or is given up.
    pub(super) fn missing(&self, long: Duration, queued: impl Fn(u64) -> bool) -> Vec<Again> {
        let mut again = Vec::new();
        let mut lost = Vec::new();
        let mut state = self.lock();
        for (token, flight) in &mut state.flights {
            if queued(flight.n) || flight.sent.elapsed() <= long {
                flight.missing = 0;
                continue;
            }
            flight.missing += 1;
            if flight.missing < MISSING {
                continue;
            }
            flight.again();
            if flight.leases > DELIVERIES {
                lost.push(token.clone());
            } else {
                again.push((token.clone(), flight.work.clone(), flight.n, flight.attempt));
            }
        }
        let lost: Vec<PendingItem> = lost.iter().filter_map(|token| state.flights.remove(token)).collect();
        let again = again
            .into_iter()
            .map(|(token, work, n, attempt)| Again {
                files: state.files(&work.spec),
                token,
                work,
                n,
                attempt,
            })
            .collect();
        drop(state);
        for flight in lost {
            flight.answer(WorkOutcome::Lost);
        }
        again
    }

    /// Where a flight stands in the queue.
    pub(super) fn placed(&self, token: &str, place: u64) {
        if let Some(flight) = self.lock().flights.get_mut(token) {
            flight.place = Some(place);
        }
    }

    /// Those of a tenant that agents have had for too long, where all up to that place were delivered: each gets a new
    /// attempt, or is given up (`None`). With their numbers and tokens: agents are to be told, and the queue to forget them.
    pub(super) fn kept_too_long(&self, account: i64, delivered: u64, patience: Duration) -> Vec<Kept> {
        let (mut kept, mut state, now) = (Vec::new(), self.lock(), Instant::now());
        for (token, flight) in &mut state.flights {
            let is_delivered = flight.place.is_some_and(|place| place <= delivered);
            if flight.work.spec.account != account || !is_delivered {
                continue;
            }
            let since = *flight.delivered.get_or_insert(now);
            if flight.longest(patience).is_some_and(|longest| now.duration_since(since) > longest) {
                flight.again();
                let again = (flight.work.clone(), flight.n, flight.attempt, flight.leases <= DELIVERIES);
                kept.push((token.clone(), again));
            }
        }
        let mut all = Vec::new();
        for (token, (work, n, attempt, wanted)) in kept {
            let run = work.spec.run.clone();
            let files = state.files(&work.spec);
            let again = wanted.then(|| Again { token: token.clone(), work, n, attempt, files });
            all.push(Kept { token, run, n, again });
        }
        all
    }

    /// What to do about a report of use, under that name and of that number.
    pub(super) fn report(&self, name: &str, report: u64) -> Report {
        let mut state = self.lock();
        let Some(of_run) = state.payers.get_mut(name) else { return Report::Unknown };
        if of_run.reports.contains(&report) {
            return Report::Again;
        }
        of_run.reports.truncate(REPORTS - 1);
        of_run.reports.push_front(report);
        Report::Charge(of_run.run.clone())
    }

    /// A report could not be charged: it will come again.
    pub(super) fn forget_report(&self, name: &str, report: u64) {
        if let Some(of_run) = self.lock().payers.get_mut(name) {
            of_run.reports.retain(|known| *known != report);
        }
    }

    /// What an agent is answered; `room`: bytes in one message.
    pub(super) fn request(&self, about: &str, request: Request, room: usize) -> Answer {
        if about == messages::HERE {
            return Answer::Now(Reply::Yes(Bytes::new()));
        }
        let mut state = self.lock();
        if let (Some(path), Request::Get(offset)) = (state.files.get(about), &request) {
            return Answer::File(path.clone(), *offset);
        }
        let Some(flight) = state.flights.get_mut(about) else { return Answer::Now(Reply::No) };
        let yes = Reply::Yes(Bytes::new());
        let (over, verdict) = match request {
            Request::Ask(delivered) => {
                flight.leases += u32::from(delivered > 1);
                if flight.leases <= DELIVERIES {
                    return Answer::Now(yes);
                }
                (Reply::No, Ok(WorkOutcome::Lost))
            }
            Request::Back if flight.leases < DELIVERIES => return Answer::Now(yes),
            Request::Back => (Reply::No, Ok(WorkOutcome::Lost)),
            Request::Unused => {
                flight.leases = flight.leases.saturating_sub(1);
                return Answer::Now(yes);
            }
            // Reports are about runs: see `report`.
            Request::Used(..) => return Answer::Now(Reply::No),
            Request::Get(offset) => return Answer::Now(flight.payload(offset, room)),
            Request::Part(offset, total, part) => return Answer::Now(flight.part(offset, total, &part)),
            Request::Verdict(ack, body) => {
                let body = if body.is_empty() { std::mem::take(&mut flight.parts).into() } else { body };
                let verdict = messages::read_verdict(&body, flight.items());
                // It is an agent that names the subject to which this gateway will say something.
                if verdict.is_ok() && self.names.is_ack(&ack, flight.work.spec.account) {
                    *flight.ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(ack);
                }
                (yes, verdict)
            }
        };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => {
                // It stays as it is: it will be missing in the queue, and is sent again.
                tracing::warn!(run = flight.work.spec.run, %error, "an agent has sent a malformed answer");
                return Answer::Now(Reply::No);
            }
        };
        let flight = state.flights.remove(about);
        drop(state);
        match flight {
            Some(flight) if flight.leases > 1 => {
                flight.answer(verdict);
                Answer::Over(over)
            }
            Some(flight) => {
                flight.answer(verdict);
                Answer::Now(over)
            }
            None => Answer::Now(over),
        }
    }
}

impl State {
    /// What the files of a run are called, from its first work to its end.
    fn files(&mut self, spec: &RunSpec) -> Files {
        if let Some(files) = self.runs.get(&spec.run) {
            return files.clone();
        }
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
