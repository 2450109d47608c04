//! What a gateway has submitted and what is still wanted of it: who waits for which verdict, what agents may ask about it,
//! and the files that they may fetch. Decides; `sender` does what is decided.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use fastmap_backends::cloud::hexadecimal;
use tokio::sync::oneshot;

use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::messages::{Files, Named, Reply, Request};
use crate::dispatch::jetstream::subjects::Names;
use crate::dispatch::work::{RunSpec, Task, Upload, Verdict, Work};
use crate::keys::random;

/// Agents that may lose the same work before it is given up.
const DELIVERIES: u32 = 5;
/// What a verdict may have beside an answer that keeps to its limit: its own words.
const BESIDE: u64 = 1 << 20;
/// Workers that end with their run have been reported for within this.
const REPORTED: Duration = Duration::from_mins(2);
/// Reports of a run by which one that comes again is known.
const REPORTS: usize = 64;
/// Of its limit of CPU time, a batch may be in agents' hands for so many times: they give it four times as long on the clock,
/// and may hold five for each worker.
const LONGEST: u32 = 20;
/// Looks at the queue in which it must be missing before it is sent again: it may be on its way.
const MISSING: u32 = 2;

/// Where to acknowledge work, once its verdict has come.
pub(super) type Ack = Arc<Mutex<Option<String>>>;

/// Work that waits for its verdict.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) work: Work,
    /// The last token of its subject.
    pub(super) n: u64,
    /// How often it was put into the queue anew.
    pub(super) attempt: u32,
    reply: oneshot::Sender<Verdict>,
    ack: Ack,
    /// Agents that have had it; the first is counted from the start.
    leases: u32,
    /// A verdict that comes in parts, as far as it is here.
    parts: Vec<u8>,
    sent: Instant,
    missing: u32,
    /// Its place in the stream, and since when it is known that an agent has it.
    place: Option<u64>,
    delivered: Option<Instant>,
}

impl Flight {
    fn items(&self) -> u32 {
        match &self.work.task {
            Task::Check => 0,
            Task::Batch(batch) => batch.items,
        }
    }

    /// It is put into the queue anew.
    fn again(&mut self) {
        self.missing = 0;
        self.leases += 1;
        self.attempt += 1;
        self.sent = Instant::now();
        (self.place, self.delivered) = (None, None);
    }

    /// Agents may have it for so long.
    fn longest(&self, patience: Duration) -> Option<Duration> {
        match &self.work.task {
            // Who waits for it gives it up itself.
            Task::Check => None,
            Task::Batch(batch) => Some(batch.limit.cpu.saturating_mul(LONGEST).saturating_add(patience)),
        }
    }

    fn answer(self, verdict: Verdict) {
        let _gone = self.reply.send(verdict);
    }
}

/// All flights of a gateway, by the token that agents know.
#[derive(Debug)]
pub(super) struct Flights {
    state: Mutex<State>,
    names: Names,
}

#[derive(Debug, Default)]
struct State {
    flights: HashMap<String, Flight>,
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
    pub(super) verdict: oneshot::Receiver<Verdict>,
    pub(super) ack: Ack,
}

/// What nobody can guess.
pub(super) fn name() -> String {
    // Without random numbers nothing of this service works.
    hexadecimal(&random::<16>().expect("the kernel gives random numbers"))
}

impl Flights {
    pub(super) fn new(names: Names) -> Self {
        Flights { state: Mutex::default(), names }
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
        let flight = Flight {
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
            flight.answer(Verdict::Lost);
        }
    }

    /// The queue does not take it, for that reason.
    pub(super) fn refuse(&self, token: &str, why: String) {
        let flight = self.lock().flights.remove(token);
        if let Some(flight) = flight {
            flight.answer(Verdict::Refused(why));
        }
    }

    /// Nobody wants a batch any more; gives its token and its number.
    pub(super) fn cancel(&self, run: &str, seq: u64) -> Option<(String, u64)> {
        let is = |flight: &Flight| match &flight.work.task {
            Task::Batch(batch) => batch.seq == seq && flight.work.spec.run == run,
            Task::Check => false,
        };
        let mut state = self.lock();
        let token = state.flights.iter().find(|(_, flight)| is(flight))?.0.clone();
        let flight = state.flights.remove(&token)?;
        drop(state);
        let n = flight.n;
        flight.answer(Verdict::Cancelled);
        Some((token, n))
    }

    /// All of a run is over. How many there were.
    pub(super) fn end_run(&self, run: &str) -> usize {
        let mut state = self.lock();
        let over: Vec<Flight> = state
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
            flight.answer(Verdict::Cancelled);
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
        let lost: Vec<Flight> = lost.iter().filter_map(|token| state.flights.remove(token)).collect();
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
            flight.answer(Verdict::Lost);
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
                (Reply::No, Ok(Verdict::Lost))
            }
            Request::Back if flight.leases < DELIVERIES => return Answer::Now(yes),
            Request::Back => (Reply::No, Ok(Verdict::Lost)),
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
                tracing::warn!(run = flight.work.spec.run, %error, "an agent has answered what is no answer");
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

/// Work that an agent has kept for too long.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) token: String,
    pub(super) run: String,
    pub(super) n: u64,
    /// `None`: agents have kept it too often.
    pub(super) again: Option<Again>,
}

/// Work that is put into the queue anew.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) token: String,
    pub(super) work: Work,
    pub(super) n: u64,
    pub(super) attempt: u32,
    pub(super) files: Files,
}

impl State {
    /// What the files of a run are called, from its first work to its end.
    fn files(&mut self, spec: &RunSpec) -> Files {
        if let Some(files) = self.runs.get(&spec.run) {
            return files.clone();
        }
        let mut named = |upload: &Upload| {
            let named = Named { hash: upload.hash.clone(), name: name() };
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

impl Flight {
    fn payload(&self, offset: u64, room: usize) -> Reply {
        let Task::Batch(batch) = &self.work.task else { return Reply::No };
        let length = batch.payload.len();
        match usize::try_from(offset) {
            Ok(offset) if offset < length => {
                Reply::Yes(batch.payload.slice(offset..length.min(offset + room)))
            }
            _ => Reply::No,
        }
    }

    /// A part of a verdict. One that comes twice is taken once; a gap is refused.
    fn part(&mut self, offset: u64, total: u64, part: &[u8]) -> Reply {
        let most = match &self.work.task {
            Task::Check => BESIDE,
            Task::Batch(batch) => batch.limit.bytes.saturating_add(BESIDE),
        };
        if offset == 0 {
            self.parts.clear();
        }
        let there = self.parts.len() as u64;
        let end = offset.saturating_add(part.len() as u64);
        if total > most || end > total || offset > there {
            return Reply::No;
        }
        if end > there {
            self.parts.truncate(offset as usize);
            self.parts.extend_from_slice(part);
        }
        Reply::Yes(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::work::BatchTask;
    use crate::pricing::Work as Limit;

    fn work(run: &str) -> Work {
        let spec = RunSpec {
            run: run.to_owned(),
            account: 7,
            executable: Upload { hash: "ab".to_owned(), path: PathBuf::from("/uploads/ab"), kept: None },
            identity: String::new(),
            function: fastmap_backends::FunctionId { offset: 0, name: String::new() },
            context: None,
            label: None,
            items: None,
            item_timeout: None,
            locale: fastmap_backends::cloud::Locale::default(),
        };
        let (payload, limit) = (Bytes::from_static(b"payload"), Limit::default());
        let batch = BatchTask {
            seq: 1,
            first: 0,
            items: 1,
            stride: None,
            payload,
            enough: 0,
            level: None,
            limit,
            request: String::new(),
        };
        Work { spec: Arc::new(spec), task: Task::Batch(batch) }
    }

    fn flights() -> Flights {
        Flights::new(Names::new("fastmap"))
    }

    fn reply(flights: &Flights, about: &str, request: Request) -> Reply {
        match flights.request(about, request, 1000) {
            Answer::Now(reply) | Answer::Over(reply) => reply,
            file @ Answer::File(..) => panic!("{file:?}"),
        }
    }

    fn yes() -> Reply {
        Reply::Yes(Bytes::new())
    }

    #[test]
    fn only_what_work_names_is_given_out_and_only_until_its_run_ends() {
        let flights = flights();
        let entered = flights.enter(work("r")).expect("it is open");
        let get = || flights.request(&entered.files.executable.name, Request::Get(0), 1000);
        assert!(matches!(get(), Answer::File(path, 0) if path == *"/uploads/ab"));
        assert_eq!(reply(&flights, &entered.token, Request::Get(3)), Reply::Yes(Bytes::from_static(b"load")));
        for guess in ["ab", "/uploads/ab", "", "*", ">", "r"] {
            assert_eq!(reply(&flights, guess, Request::Get(0)), Reply::No);
        }
        assert_eq!(flights.end_run("r"), 1);
        assert!(matches!(get(), Answer::Now(Reply::No)));
        assert_eq!(reply(&flights, &entered.token, Request::Ask(1)), Reply::No);
    }

    #[test]
    fn a_report_of_use_is_charged_once_to_the_run_that_its_name_names_and_also_behind_its_end() {
        let flights = flights();
        let entered = flights.enter(work("r")).expect("it is open");
        let name = &entered.files.executable.name;
        assert_eq!(flights.report(name, 1), Report::Charge("r".to_owned()));
        assert_eq!(flights.report(name, 1), Report::Again);
        flights.forget_report(name, 1);
        assert_eq!(flights.report(name, 1), Report::Charge("r".to_owned()));
        assert_eq!(flights.end_run("r"), 1);
        assert_eq!(flights.report(name, 1), Report::Again);
        assert_eq!(flights.report(name, 2), Report::Charge("r".to_owned()));
        for guess in ["r", "ab", "", &entered.token] {
            assert_eq!(flights.report(guess, 3), Report::Unknown);
        }
    }

    #[test]
    fn an_agent_can_not_make_the_gateway_speak_to_others() {
        for (ack, good) in [
            ("$JS.ACK.fastmap_work.tenant_7.1.2.3.4.5", true),
            ("$JS.ACK.hub.hash.fastmap_work.tenant_7.1.2.3.4.5.token", true),
            ("$JS.ACK.fastmap_work.tenant_8.1.2.3.4.5", false),
            ("$JS.ACK.other.tenant_7.1.2.3.4.5", false),
            ("$JS.API.STREAM.DELETE.fastmap_work", false),
            ("fastmap.ended", false),
        ] {
            let flights = flights();
            let entered = flights.enter(work("r")).expect("it is open");
            let verdict = Request::Verdict(ack.to_owned(), messages::verdict(Verdict::Lost));
            assert_eq!(reply(&flights, &entered.token, verdict), yes());
            assert_eq!(entered.ack.lock().expect("no panic").is_some(), good, "{ack}");
        }
    }

    #[test]
    fn what_agents_lose_again_and_again_is_given_up_and_what_they_have_not_begun_does_not_count() {
        let flights = flights();
        let mut entered = flights.enter(work("r")).expect("it is open");
        for _ in 0..100 {
            assert_eq!(reply(&flights, &entered.token, Request::Unused), yes());
            assert_eq!(reply(&flights, &entered.token, Request::Ask(2)), yes());
        }
        for _ in 1..DELIVERIES {
            assert_eq!(reply(&flights, &entered.token, Request::Ask(2)), yes());
        }
        assert_eq!(reply(&flights, &entered.token, Request::Ask(2)), Reply::No);
        assert!(matches!(entered.verdict.try_recv(), Ok(Verdict::Lost)));
    }

    #[test]
    fn what_is_missing_twice_is_sent_again_under_another_attempt() {
        let flights = flights();
        let entered = flights.enter(work("r")).expect("it is open");
        let look = |there: bool| flights.missing(Duration::ZERO, |_| there);
        assert!(look(false).is_empty() && look(true).is_empty() && look(false).is_empty());
        let again = look(false);
        assert_eq!((again[0].n, again[0].attempt), (entered.n, 1));
        assert_eq!(again[0].files.executable.name, entered.files.executable.name);
    }

    #[test]
    fn what_an_agent_keeps_for_too_long_is_taken_away_and_given_up_in_the_end() {
        let flights = flights();
        let mut entered = flights.enter(work("r")).expect("it is open");
        let look = |delivered: u64| flights.kept_too_long(7, delivered, Duration::ZERO);
        for attempt in 1..=DELIVERIES {
            flights.placed(&entered.token, 3);
            assert!(look(2).is_empty(), "it waits for its turn");
            assert!(flights.kept_too_long(8, 9, Duration::ZERO).is_empty(), "another tenant's");
            assert!(flights.kept_too_long(7, 9, Duration::from_mins(1)).is_empty(), "not for long");
            let kept = look(3);
            let again = kept[0].again.as_ref().map(|again| again.attempt);
            assert_eq!(again, (attempt < DELIVERIES).then_some(attempt));
            assert_eq!((kept[0].n, kept[0].run.as_str()), (entered.n, "r"));
        }
        flights.lose(&entered.token);
        assert!(matches!(entered.verdict.try_recv(), Ok(Verdict::Lost)));
    }

    #[test]
    fn a_verdict_in_parts_comes_whole_or_not_at_all() {
        let flights = flights();
        let mut entered = flights.enter(work("r")).expect("it is open");
        let verdict = messages::verdict(Verdict::Lost);
        let part = |from: usize, to: usize| {
            Request::Part(from as u64, verdict.len() as u64, verdict.slice(from..to))
        };
        let half = verdict.len() / 2;
        assert_eq!(reply(&flights, &entered.token, part(half, verdict.len())), Reply::No);
        for request in [part(0, half), part(0, half), part(half, verdict.len()), part(half, verdict.len())] {
            assert_eq!(reply(&flights, &entered.token, request), yes());
        }
        let too_long = Request::Part(0, u64::MAX, Bytes::from_static(b"x"));
        assert_eq!(reply(&flights, &entered.token, Request::Verdict(String::new(), Bytes::new())), yes());
        assert!(matches!(entered.verdict.try_recv(), Ok(Verdict::Lost)));
        let other = flights.enter(work("r")).expect("it is open");
        assert_eq!(reply(&flights, &other.token, too_long), Reply::No);
    }
}
