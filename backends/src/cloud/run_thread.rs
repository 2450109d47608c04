//! Thread of a run: authenticates, asks the user, uploads, opens the run and starts senders. After that it
//! does all that is not a batch: leases, acknowledgements, workers' output, and the bill at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::WaitUnpoisoned;

use crate::cloud::http::{Failure, TimeoutClass, random_hex};
use crate::cloud::locale::Locale;
use crate::cloud::notices::Notice;
use crate::cloud::problem::ProblemCode;
use crate::cloud::protocol::{
    Acknowledge, Acknowledged, BatchCancelled, Bill, FunctionName, Lease, Limits, OpenRun, RunOpened,
    RunState,
};
use crate::cloud::run_handle::{ACK_BATCH, RunHandle};
use crate::cloud::run_state::{End, Opened};
use crate::cloud::session::Stop;
use crate::cloud::worker_lines::WorkerLines;
use crate::cloud::{batch_sender, charges};
use crate::model::cost::Receipt;
use crate::model::error::BackendError;

const MAX_ACKS: usize = 10_000;
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a failed cancellation is repeated.
const CANCEL_RETRY: Duration = Duration::from_secs(1);
/// Interval of fetching workers' lines while batches are in flight.
const LINES_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum bytes of a label.
const MAX_LABEL_BYTES: usize = 200;
/// Maximum attempts to open a run, and maximum runs in a row that may end without an answer.
const MAX_OPENINGS: u32 = 3;
/// Lower bound of the wait for the next due time.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// Starts the run's thread.
///
/// # Errors
/// If there can be no more threads.
pub(crate) fn start(shared: &Arc<RunHandle>) -> Result<(), BackendError> {
    let run_thread = RunThread { shared: Arc::clone(shared), lines: WorkerLines::default(), earlier_cost: 0 };
    let thread = thread::Builder::new().name("fastmap-cloud".to_owned());
    let spawned = thread.spawn(move || {
        let shared = Arc::clone(&run_thread.shared);
        // Output sinks, listeners and confirmations are the user's own code and may panic.
        let receipt = catch_unwind(AssertUnwindSafe(|| run_thread.run())).unwrap_or_else(|_| {
            shared.fail(BackendError::Other("the thread of a cloud run panicked".to_owned()));
            Receipt::default()
        });
        shared.lock().receipt = Some(receipt);
        shared.wake();
    });
    spawned.map(drop).map_err(|error| BackendError::Io("cannot start a thread".to_owned(), error))
}

struct RunThread {
    shared: Arc<RunHandle>,
    lines: WorkerLines,
    /// Cost of the earlier runs that this one continues.
    earlier_cost: i64,
}

impl RunThread {
    /// Runs from opening to bill.
    fn run(mut self) -> Receipt {
        match self.open() {
            Ok(limits) => {
                if let Err(Stop::Failed(error)) = self.control_loop(limits) {
                    self.shared.fail(error);
                }
                self.finish()
            }
            Err(stop) => {
                if let Stop::Failed(error) = stop {
                    self.shared.fail(error);
                }
                Receipt::default()
            }
        }
    }

    fn open(&mut self) -> Result<Limits, Stop> {
        let shared = Arc::clone(&self.shared);
        let session = &shared.session;
        let auth = session.auth(shared.as_ref())?;
        // Hash the program before there is anything to send: the first batch does not wait for it then.
        crate::cloud::upload::executable().map_err(Stop::Failed)?;
        charges::quote(&shared, &auth)?;
        shared.await_work()?;
        charges::confirm(&shared, &auth)?;
        self.open_run(&auth.limits)?;
        Ok(auth.limits)
    }

    /// Uploads what the service does not have, and opens the run.
    fn open_run(&mut self, limits: &Limits) -> Result<(), Stop> {
        let shared = Arc::clone(&self.shared);
        let (session, job) = (&shared.session, &shared.job);
        let mut opened = None;
        let mut last = None;
        for _ in 0..MAX_OPENINGS {
            let executable = session.ensure_executable(shared.as_ref(), limits)?;
            let context = session.ensure_context(shared.as_ref(), limits, &job.context)?;
            let key = random_hex().map_err(|failure| {
                Stop::Failed(BackendError::Cloud(crate::cloud::retry::describe(&failure), None))
            })?;
            let request = OpenRun {
                key,
                executable,
                function: FunctionName { offset: job.function.offset, name: job.function.name.clone() },
                context,
                label: job.label.as_deref().map(shortened),
                items: job.items,
                item_timeout_ms: job.item_timeout.map(|limit| (limit.as_millis() as u64).max(1)),
                max_credits: session.options.max_credits.map(|limit| (limit - self.earlier_cost).max(0)),
                locale: Some(Locale::of_this_process()),
            };
            let answer = session.call_with_retry(shared.as_ref(), || {
                match session.http.call_json(TimeoutClass::Opening, "POST", "/runs", Some(&request)) {
                    Ok(answer) => Ok(Some(answer)),
                    // Uploads were deleted at the service, or this very run has ended while its answer was
                    // lost.
                    Err(Failure::Problem(problem))
                        if matches!(problem.known(), Some(ProblemCode::NotFound | ProblemCode::RunEnded)) =>
                    {
                        log::debug!("opening a run: {problem}");
                        last.get_or_insert(problem);
                        Ok(None)
                    }
                    Err(Failure::Problem(problem)) => {
                        last = Some(problem.clone());
                        Err(Failure::Problem(problem))
                    }
                    Err(other) => Err(other),
                }
            })?;
            if let Some((answer, _)) = answer {
                opened = Some(answer);
                break;
            }
            session.forget_stored();
        }
        let Some(RunOpened { run, workers, slots, lease_seconds, prices, spendable }) = opened else {
            let why = last.map_or_else(String::new, |problem| format!(": {problem}"));
            let message = format!("{} opened no run in {MAX_OPENINGS} tries{why}", session.http.url);
            return Err(Stop::Failed(BackendError::Cloud(message, None)));
        };
        session.options.notices.notice(&Notice::Opened { run: &run, workers });
        self.lines = WorkerLines::default();
        let mut state = shared.lock();
        let slots = slots.clamp(1, limits.batches_in_flight.max(1)) as usize;
        shared.set_slots(&mut state, slots, Some(workers as usize));
        // If the credits can't cover reservations for all slots, batches are paid in the order of the input.
        let each = prices.cpu_hour.saturating_mul(limits.batch_cpu_seconds as i64) / 3600;
        if spendable < each.saturating_mul(slots as i64) {
            state.shrink_window();
        }
        state.last_contact = Instant::now();
        state.answers = 0;
        state.opened = Some(Arc::new(Opened { run, lease: Duration::from_secs(lease_seconds.max(1)) }));
        drop(state);
        shared.work.notify_all();
        Ok(())
    }

    /// Keeps the open run alive until it is to end.
    fn control_loop(&mut self, limits: Limits) -> Result<(), Stop> {
        let shared = Arc::clone(&self.shared);
        let (mut acked, mut fetched, mut openings) = (Instant::now(), Instant::now(), 0);
        // No cancellation is sent before this time.
        let mut next_cancel = acked;
        loop {
            let mut state = shared.lock();
            if state.end.is_some() {
                return Ok(());
            }
            if let Some(lost) = state.lost.take() {
                openings = if state.answers > 0 { 1 } else { openings + 1 };
                drop(state);
                if openings > MAX_OPENINGS {
                    let message =
                        format!("{} ends each run before it gives an answer", shared.session.http.url);
                    return Err(Stop::Failed(BackendError::Cloud(message, None)));
                }
                self.reopen(&lost, &limits)?;
                continue;
            }
            let Some(opened) = state.opened.clone() else {
                // Not open at the moment: wait until the end of the run is recorded in `lost`.
                drop(shared.changed.wait_timeout_unpoisoned(state, ACK_INTERVAL));
                continue;
            };
            self.start_senders(&mut state, &limits)?;
            let now = Instant::now();
            let heartbeat_due = state.last_contact + opened.lease / 3;
            let ack = match state.arrived.len() {
                0 => None,
                ACK_BATCH.. => Some(now),
                _ => Some(acked + ACK_INTERVAL),
            };
            let fetch_due = (state.in_flight > 0 || fetched < acked).then_some(fetched + LINES_INTERVAL);
            if !state.to_cancel.is_empty() && next_cancel <= now {
                let to_cancel = std::mem::take(&mut state.to_cancel);
                drop(state);
                if !self.cancel(&opened, &to_cancel) {
                    next_cancel = Instant::now() + CANCEL_RETRY;
                }
                continue;
            }
            let cancel_due = (!state.to_cancel.is_empty()).then_some(next_cancel);
            let due = [Some(heartbeat_due), ack, fetch_due, cancel_due]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(heartbeat_due);
            if due > now {
                let wait = (due - now).max(MIN_WAIT);
                drop(shared.changed.wait_timeout_unpoisoned(state, wait));
                continue;
            }
            let arrived =
                if ack.is_some_and(|ack| ack <= now) { take_acks(&mut state.arrived) } else { Vec::new() };
            let is_heartbeat_due = heartbeat_due <= now;
            drop(state);
            if !arrived.is_empty() {
                self.acknowledge(&opened, arrived);
                acked = Instant::now();
            } else if is_heartbeat_due {
                self.heartbeat(&opened);
            }
            if fetch_due.is_some_and(|fetch_due| fetch_due <= now) {
                fetched = Instant::now();
                self.lines.fetch(&shared.session, &opened.run);
            }
        }
    }

    fn start_senders(
        &self,
        state: &mut crate::cloud::run_state::RunInner,
        limits: &Limits,
    ) -> Result<(), Stop> {
        let wanted = state.waiting.len().min(state.free_slots()).saturating_sub(state.idle);
        for _ in 0..wanted.min(state.slots.saturating_sub(state.senders)) {
            let (shared, limits) = (Arc::clone(&self.shared), *limits);
            let thread = thread::Builder::new().name("fastmap-cloud-send".to_owned());
            let spawned = thread.spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| batch_sender::send(&shared, &limits))).is_err() {
                    shared.fail(BackendError::Other("a thread of a cloud run panicked".to_owned()));
                }
            });
            match spawned {
                Ok(_) => state.senders += 1,
                Err(_) if state.senders > 0 => break,
                Err(error) => {
                    return Err(Stop::Failed(BackendError::Io("cannot start a thread".to_owned(), error)));
                }
            }
        }
        Ok(())
    }

    /// The service has ended the run early: opens another one that continues it.
    fn reopen(&mut self, lost: &Opened, limits: &Limits) -> Result<(), Stop> {
        let shared = Arc::clone(&self.shared);
        let session = &shared.session;
        session.options.notices.notice(&Notice::Reopened);
        self.lines.fetch(session, &lost.run);
        // The run has ended, so cancelling is a no-op; the bill is needed for the rest of the spending cap.
        let target = format!("/runs/{}/cancel", lost.run);
        let bill = session.call_with_retry(shared.as_ref(), || {
            match session.http.call_json(TimeoutClass::Short, "POST", &target, None::<&()>) {
                Ok((bill, _)) => Ok(Some(bill)),
                Err(Failure::Problem(problem)) if problem.known() == Some(ProblemCode::NotFound) => Ok(None),
                Err(failure) => Err(failure),
            }
        })?;
        let spent = bill.map_or(0, |bill: Bill| bill.run.spent);
        self.earlier_cost += spent;
        shared.lock().arrived.clear();
        self.open_run(limits)
    }

    fn heartbeat(&self, opened: &Arc<Opened>) {
        let target = format!("/runs/{}/heartbeat", opened.run);
        let lease: Option<Lease> = self.shared.session.try_call("POST", &target, None::<&()>);
        let mut state = self.shared.lock();
        match lease {
            Some(Lease { state: RunState::Open, .. }) => state.last_contact = Instant::now(),
            // No sender may be active to notice that the run has ended.
            Some(_) => {
                if state.opened.as_ref().is_some_and(|now| Arc::ptr_eq(now, opened)) {
                    state.lost = state.opened.take();
                }
            }
            // Try again soon, but not at once: after 1/15 of the lease.
            None => {
                let soon = Instant::now().checked_sub(opened.lease * 4 / 15);
                state.last_contact = soon.map_or_else(Instant::now, |soon| soon.max(state.last_contact));
            }
        }
    }

    /// Cancels batches that are no longer wanted: they are stopped, and have no charge of their own. Until
    /// the service has received the cancellation, it answers and charges them as usual. So failed requests
    /// are queued again. Returns whether all were received.
    fn cancel(&self, opened: &Opened, seqs: &[u64]) -> bool {
        for (at, seq) in seqs.iter().enumerate() {
            let target = format!("/runs/{}/batches/{seq}", opened.run);
            let cancelled: Option<BatchCancelled> =
                self.shared.session.try_call("DELETE", &target, None::<&()>);
            let mut state = self.shared.lock();
            if state.end.is_some() {
                return true;
            }
            if cancelled.is_none() {
                state.requeue_cancellations(&seqs[at..]);
                return false;
            }
        }
        true
    }

    fn acknowledge(&self, opened: &Opened, seqs: Vec<u64>) {
        let request = Acknowledge { seqs };
        let acknowledged: Option<Acknowledged> =
            self.shared.session.try_call("POST", &format!("/runs/{}/ack", opened.run), Some(&request));
        let mut state = self.shared.lock();
        match acknowledged {
            Some(_) => state.last_contact = Instant::now(),
            None => state.arrived.extend(request.seqs),
        }
    }

    /// Ends the run at the service; returns its cost.
    fn finish(&mut self) -> Receipt {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let how = if state.end == Some(End::Done) { "done" } else { "cancel" };
        // Earlier runs may have charged for answers that never arrived.
        let charged = state.charged.max(self.earlier_cost);
        let fallback = Receipt { microcredits: charged.unsigned_abs(), balance: None };
        let Some(opened) = state.opened.take().or_else(|| state.lost.take()) else { return fallback };
        let arrived = std::mem::take(&mut state.arrived);
        drop(state);
        let target = format!("/runs/{}/{how}", opened.run);
        let mut bill: Option<Bill> = None;
        for pause in [50, 500, 2000] {
            bill = shared.session.try_call("POST", &target, None::<&()>);
            if bill.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(pause));
        }
        self.lines.fetch(&shared.session, &opened.run);
        let receipt = bill.map_or(fallback, |bill| {
            shared.session.billed(bill.balance);
            let spent = self.earlier_cost + bill.run.spent;
            Receipt { microcredits: spent.unsigned_abs(), balance: Some(bill.balance) }
        });
        // Publish the receipt first: `close` need not wait for the acknowledgements.
        shared.lock().receipt = Some(receipt);
        shared.wake();
        for seqs in arrived.chunks(MAX_ACKS) {
            self.acknowledge(&opened, seqs.to_vec());
        }
        receipt
    }
}

fn take_acks(arrived: &mut Vec<u64>) -> Vec<u64> {
    let rest = arrived.split_off(arrived.len().min(MAX_ACKS));
    std::mem::replace(arrived, rest)
}

/// The label, cut to the maximum length that the service accepts.
fn shortened(label: &str) -> String {
    let end = (0..=MAX_LABEL_BYTES.min(label.len())).rev().find(|end| label.is_char_boundary(*end));
    label[..end.unwrap_or(0)].to_owned()
}
