//! Starts as many workers as a map would, confined as far as this kernel can, has each answer an item, and sees what came.

use std::any::type_name;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::sandbox::ConfinementLevel;
use fastmap_backends::{
    Backend, BackendError, Batch, BatchBuilder, BatchId, Descriptor, FunctionId, Job, JobId, Local,
    LocalOptions, Outcome, Task, Work, local,
};

use super::finding::{Finding, bad, good, variable};

/// What is not answered by then never is.
const PATIENCE: Duration = Duration::from_secs(30);
/// Workers that come later than the first, in times of what that took for each of them: slow machines get more time.
const LATER: u32 = 4;
/// An item takes so long, so that each worker gets one.
const ITEM: Duration = Duration::from_millis(30);
/// Each user may read it, and a confined worker may not.
const FORBIDDEN: &str = "/etc/passwd";

static FUNCTION: Descriptor = Descriptor::new(type_name::<Reads>, |_| Ok(Box::new(Reads)));

/// Answers each item by whether it could read what it must not.
struct Reads;

impl Task for Reads {
    fn run(&mut self, work: &mut Work<'_>) {
        while work.next_item().is_some() {
            std::thread::sleep(ITEM);
            let read = u8::from(std::fs::read(FORBIDDEN).is_ok());
            work.out().extend_from_slice(&1u32.to_le_bytes());
            work.out().push(read);
        }
    }
}

pub(super) fn start() -> Vec<Finding> {
    const NAME: &str = "workers";
    let wanted = match variable("FASTMAP_LOCAL_PROCESSES") {
        None => local::default_processes(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(value) => match value.parse() {
            Ok(wanted @ 1..) => wanted,
            _ => {
                let found = format!("FASTMAP_LOCAL_PROCESSES is {value:?}");
                return vec![bad(NAME, found, "set it to a whole number from 1, or not at all")];
            }
        },
    };
    let demand = if fastmap_sandbox::missing_features().is_empty() {
        ConfinementLevel::Full
    } else {
        ConfinementLevel::BestEffort
    };
    let begun = Instant::now();
    match answers(wanted, demand) {
        Ok((names, read)) => {
            let took = begun.elapsed().saturating_sub(ITEM).as_secs_f64() * 1e3;
            let found =
                format!("{} of {wanted} were started and have answered within {took:.0} ms", names.len());
            let workers = match names.len() < wanted {
                true => bad(
                    NAME,
                    found,
                    "the system starts no more: look at `ulimit -u`, the control group's pids.max, or set \
                     FASTMAP_LOCAL_PROCESSES to fewer",
                ),
                false => good(NAME, found),
            };
            let confined = match (demand, read) {
                (ConfinementLevel::Full, false) => {
                    good("sandbox", "a worker could not read what it must not")
                }
                (ConfinementLevel::Full, true) => {
                    bad("sandbox", format!("a confined worker has read {FORBIDDEN}"), "please report it")
                }
                _ => good("sandbox", "not all of its layers are here"),
            };
            vec![workers, confined]
        }
        Err(error) => {
            vec![bad(NAME, error.to_string(), "no map can run on this machine until that is mended")]
        }
    }
}

/// The names of the workers that have answered, and whether one could read what it must not.
fn answers(wanted: usize, sandbox: ConfinementLevel) -> Result<(BTreeSet<String>, bool), BackendError> {
    let pool = Local::new(LocalOptions { sandbox, ..LocalOptions::new(wanted) })?;
    let job = Job {
        id: JobId::next(),
        function: FunctionId::of(&FUNCTION),
        context: fastmap_backends::Context::default(),
        label: None,
        items: None,
        item_timeout: None,
        fail_fast: false,
        cancel_running: true,
    };
    let id = job.id;
    let mut run = pool.open(Arc::new(job))?;
    let (mut names, mut read, mut answered, mut sent) = (BTreeSet::new(), false, 0, 0);
    let begun = Instant::now();
    let mut until = begun + PATIENCE;
    // Those that are up take items in the place of those that are on their way: there are items until each has had one.
    while names.len() < wanted && Instant::now() < until {
        while sent - answered < wanted
            && run.capacity().batches > 0
            && run.submit(batch(id, sent as u64)).is_ok()
        {
            sent += 1;
        }
        let Some(completion) = run.poll(Instant::now() + Duration::from_millis(50))? else { continue };
        match completion.outcome {
            Outcome::Done(results) => {
                answered += completion.items as usize;
                read |= results.payload.bytes().last() == Some(&1);
                if names.is_empty() {
                    let others = begun.elapsed() * LATER * u32::try_from(wanted).unwrap_or(u32::MAX);
                    until = until.min(Instant::now() + others);
                }
                names.insert(results.worker);
            }
            Outcome::Returned(batch) => drop(run.submit(batch)),
            Outcome::Lost(_, loss) => return Err(BackendError::Other(loss.death.to_string())),
        }
    }
    Ok((names, read))
}

/// One item without a byte: its length alone.
fn batch(job: JobId, index: u64) -> Batch {
    let mut builder = BatchBuilder::new(None);
    builder.buffer().extend_from_slice(&0u32.to_le_bytes());
    builder.added(1);
    builder.finish(job, BatchId(index + 1), index, 1024)
}
