//! The loop of a worker: receives batches, runs them, sends what came of them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::{Arc, Once};

use fastmap_sandbox::ConfinementLevel;
use ipc_channel::ipc::IpcSender;
use log::LevelFilter;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid, gettid};

use crate::execution::build_id;
use crate::execution::stopwatch::Stopwatch;
use crate::execution::task::{Finished, Task, Work};
use crate::local::ipc::handshake::{Confinement, Greeting, Handshake, INSIDE, WorkerBootstrap};
use crate::local::ipc::messages::Opening;
use crate::local::ipc::shared_page::{SETUP, SharedPage};
use crate::local::process::descendants;
use crate::local::worker::confinement;
use crate::local::worker::receiver::{FramedBatch, FramedContext, FramedOpening, Incoming, Receiver};
use crate::local::worker::run_queue::RunQueue;
use crate::local::worker::sender::{Forward, Placed, Results};
use crate::local::worker::setup::{
    NOT_A_WORKER, SetupError, expect_descriptors, refuse, reset_signals, take_stdin, thread_name,
};
use crate::model::batch::Items;
use crate::model::context::Sealed;
use crate::model::failure::{FailureKind, ItemFailure};
use crate::model::frame::{DoneHead, HEADER, Header, PACKET, ToHost, VERSION};
use crate::model::ids::JobId;
use crate::model::text::{MESSAGE, cut};

#[derive(Debug)]
pub(crate) struct Worker {
    page: Arc<SharedPage>,
    incoming: Arc<Receiver>,
    /// The thread that receives while the function runs for long.
    helper: Once,
    results: Arc<Results>,
    /// The host holds it to what a batch was granted.
    strict: bool,
    /// It is not confined, and may open files under `/proc`.
    open: bool,
    /// Its function logs by a logger of the worker's, so that the host says up to which level.
    logs: bool,
    /// The level that the host has named last.
    level: LevelFilter,
}

impl Worker {
    /// Makes the process a worker, and reports to the host.
    ///
    /// # Errors
    /// The step that failed.
    pub(crate) fn report(marker: &WorkerBootstrap) -> Result<Worker, SetupError> {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(SetupError::DeathSignal)?;
        if getppid() != Pid::from_raw(marker.host as i32) {
            // The host (in a jail: the jail's init, which ends with the host) died before the line above could tell the
            // kernel to end this process with it.
            exit(0);
        }
        reset_signals().map_err(SetupError::Signals)?;
        crate::local::worker::stdio::write_lines();
        let page = take_stdin().map_err(SetupError::Stdin)?;
        // SAFETY: no other thread exists yet, see `enter`.
        unsafe { std::env::set_var(INSIDE, descendants::inherited(&marker.name, &marker.server)) };
        if let Ok(name) = std::ffi::CString::new(thread_name(marker)) {
            let _unnamed = prctl::set_name(&name);
        }
        expect_descriptors(&page).map_err(SetupError::Descriptors)?;
        let host = IpcSender::<Greeting>::connect(marker.server.clone())
            .map_err(|error| SetupError::Connect { server: marker.server.clone(), error })?;
        let hello = Handshake { version: VERSION, executable: build_id::identity().to_owned() };
        host.send(Greeting::Hello(hello)).map_err(SetupError::Greeting)?;

        let page = Arc::new(page);
        let results = Arc::new(Results::new(Arc::clone(&page)));
        let strict = marker.confinement == Confinement::Jailed;
        let logger = Box::new(Forward::new(Arc::clone(&results), strict));
        // A constructor of the program may have set a logger of its own, which is then left alone.
        let logs = log::set_boxed_logger(logger).is_ok();
        if logs {
            log::set_max_level(marker.level);
        }
        // All channels are made, and there is no thread yet.
        let alone = confinement::confine(&page, marker.confinement.demand());
        let alone = alone.map_err(SetupError::Sandbox)?;
        if marker.confinement == Confinement::Jailed {
            confinement::watch(&page);
        } else if !alone {
            descendants::keep(&marker.server);
        }
        let incoming = Receiver::new(Arc::clone(&page), Arc::clone(&results));
        let incoming = Arc::new(incoming.map_err(SetupError::Timer)?);
        let (helper, level) = (Once::new(), marker.level);
        let open = marker.confinement == Confinement::Own(ConfinementLevel::Off);
        Ok(Worker { page, incoming, helper, results, strict, open, logs, level })
    }

    /// Sets the level that a batch brings, if it is another than the last: the function may have set one of
    /// its own.
    fn set_level(&mut self, level: Option<LevelFilter>) {
        if let Some(level) = level.filter(|level| self.logs && *level != self.level) {
            self.level = level;
            log::set_max_level(level);
        }
    }

    fn start_helper_thread(&self) {
        let helper = Arc::clone(&self.incoming);
        let thread = std::thread::Builder::new().name("fastmap-helper".to_owned());
        if let Err(error) = thread.spawn(move || helper.start_helper()) {
            refuse(&SetupError::Thread(error));
        }
    }

    /// Runs batches until the host ends the channel.
    pub(crate) fn work(mut self) -> ! {
        self.page.tell_thread(gettid());
        let mut jobs: HashMap<JobId, Prepared> = HashMap::new();
        let mut answer = Answer::default();
        let mut queue = self.open.then(RunQueue::of_this_thread).flatten();
        while let Some(incoming) = self.incoming.next() {
            // Before the function runs: it may ask how many cores it has, or start threads that inherit them.
            self.page.owed().give_back(Pid::from_raw(0));
            match incoming {
                Incoming::Open { job, opening } => {
                    jobs.insert(job, Prepared::Opening(opening));
                }
                Incoming::Close { job } => {
                    let prepared = jobs.remove(&job);
                    let large = matches!(&prepared, Some(Prepared::Ready(Ready { large: true, .. })));
                    self.page.begin_setup(SharedPage::FREEING);
                    // The drop of the function's state is user code: it may panic, or never end.
                    let _panicked = catch_unwind(AssertUnwindSafe(|| drop(prepared)));
                    if large {
                        give_back_memory();
                    }
                    self.page.end();
                }
                Incoming::Batch(batch) => {
                    self.set_level(batch.head.level);
                    let job = batch.head.job;
                    match jobs.remove(&job).map(|task| self.prepare(batch.head.ticket, task)) {
                        Some(Ok(mut ready)) => {
                            self.run(&batch, &mut ready, (&mut answer, queue.as_mut()));
                            jobs.insert(job, Prepared::Ready(ready));
                        }
                        Some(Err(failure)) => {
                            let payload = postcard::to_stdvec(&failure).expect("a failure can be written");
                            self.results.send(&Header::frame(ToHost::OpenFailed { job }, &payload));
                            // Kept, because batches of the job that are on their way are each refused in the
                            // same way.
                            jobs.insert(job, Prepared::Refused(failure));
                        }
                        None => {}
                    }
                }
            }
        }
        descendants::end_own();
        exit(0)
    }

    fn prepare(&self, ticket: u64, prepared: Prepared) -> Result<Ready, ItemFailure> {
        match prepared {
            Prepared::Ready(ready) => Ok(ready),
            Prepared::Refused(failure) => Err(failure),
            Prepared::Opening(opening) => {
                // Code of the user's runs from here on. Earlier, the handshake with the host would wait for another thread.
                self.helper.call_once(|| self.start_helper_thread());
                self.page.begin_setup(ticket);
                let ready = open(opening);
                // Also where it could not be prepared: an idle worker that seemed to prepare something would be
                // blamed for it when it dies later.
                self.tell_refusal(ticket);
                crate::local::worker::stdio::flush();
                self.page.end();
                ready
            }
        }
    }

    /// Tells the host of a call that the sandbox refused to something that went on.
    fn tell_refusal(&self, ticket: u64) {
        if let Some(frame) = confinement::swallowed(ticket) {
            self.results.send(&frame);
        }
    }

    fn run(
        &self,
        batch: &FramedBatch,
        ready: &mut Ready,
        (answer, mut queue): (&mut Answer, Option<&mut RunQueue>),
    ) {
        let Ready { task, fail_fast, .. } = ready;
        let Answer { out, placed } = answer;
        out.clear();
        out.resize(HEADER, 0);
        let FramedBatch { head, claims, .. } = batch;
        let payload = match batch.shared {
            // SAFETY: the host takes the place for free when it has the answer to this batch, which is sent below.
            Some((place, length)) => unsafe { self.page.placed_by_host(place, length) },
            None => Some(batch.payload()),
        };
        // The host is this very program: it places nothing outside.
        let Some(payload) = payload else { exit(NOT_A_WORKER) };
        let running = self.page.begin(head.ticket);
        let items = Items::new(payload, head.stride);
        let length = task.result_stride().map_or(0, |stride| head.items as usize * stride as usize);
        let place = placed.find(&self.page, length);
        // SAFETY: nothing else is placed before this batch is answered, and the host learns of it below.
        let slots = place.clone().map(|place| unsafe { self.page.place_for_host(place.start, place.len()) });
        // Between the two looks at the clock, because a thread that leaves a system call may lose its core.
        let time = Stopwatch::start();
        if let Some(queue) = &mut queue {
            queue.begin();
        }
        let work = Work::new(items, head.items, head.result_credit, claims, running, out);
        let mut work =
            work.into_slots(slots).failing_fast(*fail_fast).held_to(self.strict.then_some(head.granted));
        task.run(&mut work);
        let Finished { answered, failures, written, slowest } = work.finish();
        let queued = queue.and_then(RunQueue::end);
        let (wall, cpu) = time.stop();
        // Both before the answer: the host looks for refused calls when it comes, and what was printed must be in the pipe.
        self.tell_refusal(head.ticket);
        crate::local::worker::stdio::flush();
        // From here on no single item is to blame for a death.
        self.page.begin_sending();
        let mut done = DoneHead {
            ticket: head.ticket,
            items: answered,
            failure_bytes: 0,
            slowest: Some(slowest),
            queued,
            wall,
            cpu,
        };
        match place {
            Some(place) if failures.is_empty() => {
                self.results.send(&Header::placed(ToHost::Done(done), place.start, written));
                // An answer that the host has copied out by now is found to be free at the next look.
                placed.keep(place);
            }
            place => {
                if let Some(place) = place {
                    // SAFETY: as above.
                    out.extend_from_slice(unsafe { self.page.place_for_host(place.start, written) });
                }
                let before = out.len();
                if !failures.is_empty() {
                    out.extend(postcard::to_stdvec(&failures).expect("failures can be written"));
                }
                done.failure_bytes = (out.len() - before) as u64;
                self.answer(done, out, placed);
            }
        }
        // Behind the send: a host that sees the batch through and gets no answer ends this worker.
        self.page.end();
        // One huge result must not stay with the worker for ever.
        if out.capacity() > 16 * PACKET {
            out.shrink_to(PACKET);
        }
    }

    /// Sends an answer that was made in `out`, behind the room for its header.
    fn answer(&self, done: DoneHead, out: &mut [u8], placed: &mut Placed) {
        let payload = &out[HEADER..];
        match placed.find(&self.page, payload.len()) {
            Some(place) => {
                self.page.write_to_host(place.start, payload);
                self.results.send(&Header::placed(ToHost::Done(done), place.start, payload.len()));
                placed.keep(place);
            }
            None => {
                Header::before(ToHost::Done(done), payload.len()).write(out);
                self.results.send(out);
            }
        }
    }
}

/// Returns freed memory to the system: of a large context in many pieces the allocator would keep most, for this process.
pub(crate) fn give_back_memory() {
    // SAFETY: it takes nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the answer to a batch is made in, used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    out: Vec<u8>,
    placed: Placed,
}

/// Prepares the function of a run.
fn open(opening: FramedOpening) -> Result<Ready, ItemFailure> {
    let broken = |message: String| ItemFailure { offset: 0, kind: FailureKind::Serialize, message };
    let FramedOpening { frame, context } = opening;
    let bytes = &frame[HEADER..];
    let (file, at) = match context {
        FramedContext::At(at) => (None, at),
        FramedContext::File(file) => {
            let mapped = file.and_then(Sealed::open);
            let unmapped = |error| broken(format!("the context can't be mapped: {error}"));
            (Some(mapped.map_err(unmapped)?), bytes.len())
        }
    };
    let (opening, inline) =
        bytes.split_at_checked(at).ok_or_else(|| broken("the opening of a job is cut short".to_owned()))?;
    // A file stays mapped for as long as it is read.
    let context = file.as_ref().map_or(inline, Sealed::bytes);
    let opening: Opening = postcard::from_bytes(opening).map_err(|error| broken(error.to_string()))?;
    let task = opening.function.resolve().map_err(broken)?.start(context).map_err(|mut failure| {
        failure.message = crate::execution::denials::blame(cut(failure.message, MESSAGE), SETUP);
        failure
    })?;
    Ok(Ready { task, fail_fast: opening.fail_fast, large: file.is_some() })
}

/// A function that is ready to run items.
pub(crate) struct Ready {
    task: Box<dyn Task>,
    fail_fast: bool,
    /// Its context was a file.
    large: bool,
}

/// A job as far as it is prepared. Its function is made at the first batch and not before, so that a death in
/// it is reported as one of that batch.
pub(crate) enum Prepared {
    Opening(FramedOpening),
    Ready(Ready),
    Refused(ItemFailure),
}
