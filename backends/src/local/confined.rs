//! How a worker confines itself, or has a jail watched that confines it, and how a refused call finds its way to
//! the user: into the failure of the item that made it, into the death of its worker, or, where the item went
//! on or still runs, to the host, which warns. Files that a jail has not go the same way. Called by `worker`
//! and `Work` on one side, by `pool` and `reader` on the other; calls the crate `sandbox`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fastmap_sandbox::{Demand, Lack, Layer, Refusal, named, record};

use super::page::{Page, SETUP};
use super::pool::{Shared, State};
use crate::completion::{RefusedCall, Running, add};
use crate::text::cut;
use crate::wire::{Header, Kind};

/// More of a call's description is not believed, nor more calls of one batch.
const MOST: usize = 500;
const MOST_CALLS: usize = 64;
/// Files that are told of one failing item.
const MOST_FILES: usize = 3;
/// What a jailed worker tells in its life of items that went on, and of files that failing items looked for: it
/// counts as output, which is limited.
const MOST_IN_JAIL: usize = 64;
const MOST_FILES_IN_JAIL: usize = 1000;
/// An item that runs for so long, and was refused a call, may never end.
const PATIENCE: Duration = Duration::from_secs(3);
/// Items of one run about which such a warning is written, at most.
const MOST_DOUBTED: usize = 3;
/// Why a call was refused, and what to do about it.
const WAY_OUT: &str = "for a mapped function uses neither files nor network nor other processes; \
                       Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it on this machine";

/// Worker: what is to be told beside the record.
#[derive(Debug, Default)]
struct Untold {
    /// Files that failing items of this batch looked for.
    files: Vec<Told>,
    /// How many such files were told in all.
    files_told: usize,
    /// What a jailed worker has told of items that went on.
    told: HashSet<(bool, String)>,
}

/// Worker: there is one in a jail.
static UNTOLD: OnceLock<Mutex<Untold>> = OnceLock::new();

fn untold() -> Option<MutexGuard<'static, Untold>> {
    UNTOLD.get().map(|untold| untold.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Confines this process, and returns whether it can start no others. To be called when all channels are made
/// and no thread is.
///
/// # Errors
/// For [`Demand::Full`], what the kernel lacks.
pub(crate) fn confine(page: &Arc<Page>, demand: Demand) -> Result<bool, Lack> {
    if demand == Demand::Off {
        return Ok(false);
    }
    // The signal handler writes to it until the process ends.
    let page: &'static Arc<Page> = Box::leak(Box::new(Arc::clone(page)));
    let confinement = fastmap_sandbox::confine(demand, page.record(), page.item())?;
    if let Some(why) = confinement.no_temporary_files {
        log::debug!("this worker has no /tmp and no /dev/shm of its own: {why}");
    }
    for lack in confinement.lacking {
        // The host has warned of what it could know.
        log::warn!("this worker is not fully confined: {lack} ({})", lack.why);
    }
    Ok(confinement.holding.contains(&Layer::Seccomp))
}

/// Has this process, which is in a jail, write down what it is refused there. To be called when all channels are
/// made and no thread is. Without it nothing else is different.
pub(crate) fn watch(page: &Arc<Page>) {
    // The signal handler writes to it until the process ends.
    let page: &'static Arc<Page> = Box::leak(Box::new(Arc::clone(page)));
    match fastmap_sandbox::watch(page.record(), page.item()) {
        Ok(()) => drop(UNTOLD.set(Mutex::default())),
        Err(why) => log::debug!("what the jail refuses is not told: {why}"),
    }
}

/// What a message says of refused calls.
pub(crate) fn told(calls: &str) -> String {
    format!("the sandbox refused {calls}, {WAY_OUT}")
}

/// Worker: the message of an item that failed, with what was refused to it.
pub(crate) fn blame(mut message: String, item: u32) -> String {
    let Some(record) = record().filter(|record| record.is_of(item)) else { return message };
    record.tell(item);
    if let Some(mut untold) = untold() {
        let missing = record.missing(item).into_iter().take(MOST_FILES).map(|file| tell(&file, item));
        let left = MOST_FILES_IN_JAIL.saturating_sub(untold.files_told);
        let room = left.min(MOST_CALLS.saturating_sub(untold.files.len()));
        let before = untold.files.len();
        untold.files.extend(missing.take(room));
        untold.files_told += untold.files.len() - before;
    }
    match record.of_item(item) {
        refused if refused.is_empty() => message,
        refused => {
            add(&mut message, &format!("; {}", told(&named(&refused))));
            message
        }
    }
}

/// Worker: whether anything was refused to that item, the latest.
#[inline]
pub(crate) fn was_refused(item: u32) -> bool {
    record().is_some_and(|record| record.is_of(item))
}

/// Worker: that item has answered an error of its own.
pub(crate) fn answered_error(item: u32) {
    if let Some(record) = record() {
        record.answered_error(item);
    }
}

/// A refused call as a worker tells it: the number of its item, whether that has answered an error of its
/// own, whether there is no such file instead, the call (or the file's path).
type Told = (u32, bool, bool, String);

fn tell(refusal: &Refusal, item: u32) -> Told {
    let text = match refusal.path.as_ref().filter(|_| refusal.missing) {
        Some(path) => path.clone(),
        None => refusal.to_string(),
    };
    (item, refusal.own_error, refusal.missing, text)
}

/// Worker: a frame about calls that were refused to items of this batch, which went on, and about files that are
/// not there, of all items.
pub(crate) fn swallowed(ticket: u64) -> Option<Vec<u8>> {
    let record = record()?;
    let refused = record.swallowed().into_iter().map(|refusal| tell(&refusal, refusal.item));
    let told: Vec<Told> = match untold() {
        None => refused.collect(),
        Some(mut untold) => {
            let Untold { files, told, .. } = &mut *untold;
            let new = |call: &Told| told.len() < MOST_IN_JAIL && told.insert((call.1, call.3.clone()));
            std::mem::take(files).into_iter().chain(refused.filter(new)).collect()
        }
    };
    record.begin();
    if told.is_empty() {
        return None;
    }
    let payload = postcard::to_stdvec(&told).expect("numbers and texts can be written");
    Some(Header { kind: Kind::Refusal, batch: ticket, ..Header::EMPTY }.frame(&payload))
}

/// Host: what was refused to that which ran when a worker died.
pub(crate) fn refused_to(page: &Page, ran: Option<(u64, Running)>) -> Option<String> {
    let item = number(ran?.1)?;
    let mut refused = page.record().of_item(item);
    refused.extend(page.record().missing(item));
    (!refused.is_empty()).then(|| named(&refused))
}

/// What stands for it in the record.
fn number(running: Running) -> Option<u32> {
    match running {
        Running::Item(item) => Some(item),
        Running::Setup => Some(SETUP),
        Running::Unknown => None,
    }
}

/// Host: has the user told of calls that were refused to items that still run: a library may wait for ever
/// for what it was refused. Returns when to look again.
pub(crate) fn doubt_items(state: &mut State, now: Instant) -> Option<Duration> {
    if !state.confined || state.runs.is_empty() {
        return None;
    }
    for member in &mut state.members {
        let Some(running) = member.page.running() else {
            member.doubted = None;
            continue;
        };
        let (since, told) = match member.doubted {
            Some((before, since, told)) if before == running => (since, told),
            _ => (now, false),
        };
        member.doubted = Some((running, since, told));
        if told || now.saturating_duration_since(since) < PATIENCE {
            continue;
        }
        let held = member.held.iter().find(|held| held.batch.ticket() == running.0 && !held.orphan);
        let Some(batch) = held.map(|held| &held.batch) else { continue };
        let Some(run) = state.runs.get_mut(&batch.job()).filter(|run| run.doubted < MOST_DOUBTED) else {
            continue;
        };
        let refused = number(running.1).map(|item| member.page.record().in_earnest(item)).unwrap_or_default();
        if refused.is_empty() {
            continue;
        }
        let calls = named(&refused);
        member.doubted = Some((running, since, true));
        run.doubted += 1;
        let what = match running.1 {
            Running::Item(item) => format!("item {}, which", batch.first() + u64::from(item)),
            _ => "the preparation of the function, which".to_owned(),
        };
        state.warnings.push(format!(
            "fastmap: warning: the sandbox refused {calls} to {what} still runs after {} s: it may be waiting for that; \
             {WAY_OUT}\n",
            PATIENCE.as_secs()
        ));
    }
    Some(PATIENCE / 3)
}

impl Shared {
    /// A worker tells of refused calls. What it says of a batch that it has not is nothing.
    ///
    /// # Errors
    /// If it says nothing that can be read.
    pub(crate) fn refusal(&self, id: u64, header: &Header, told: &[u8]) -> Result<(), String> {
        let told: Vec<Told> = postcard::from_bytes(told).map_err(|error| error.to_string())?;
        let mut state = self.lock();
        let Some(member) = state.member(id) else { return Ok(()) };
        let Some(held) = member.held.iter_mut().find(|held| held.batch.ticket() == header.batch) else {
            return Ok(());
        };
        for (item, own_error, missing, call) in told.into_iter().take(MOST_CALLS) {
            let index = (item < held.batch.items()).then(|| held.batch.first() + u64::from(item));
            held.refused.push(RefusedCall { index, call: cut(call, MOST), own_error, missing });
        }
        held.refused.truncate(MOST_CALLS);
        Ok(())
    }
}
