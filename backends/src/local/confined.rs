//! How a worker confines itself, and how a refused call finds its way to the user: into the failure of the
//! item that made it, into the death of its worker, or, where the item went on or still runs, to the host,
//! which warns. Called by `worker` and `Work` on one side, by `pool` and `reader` on the other; calls the
//! crate `sandbox`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_sandbox::{Demand, Lack, Layer, named, record};

use super::page::{Page, SETUP};
use super::pool::{Shared, State};
use crate::completion::{RefusedCall, Running};
use crate::text::cut;
use crate::wire::{Header, Kind};

/// More of a call's description is not believed, nor more calls of one batch.
const MOST: usize = 500;
const MOST_CALLS: usize = 64;
/// An item that runs for so long, and was refused a call, may never end.
const PATIENCE: Duration = Duration::from_secs(3);
/// Items of one run about which such a warning is written, at most.
const MOST_DOUBTED: usize = 3;
/// Why a call was refused, and what to do about it.
const WAY_OUT: &str = "for a mapped function uses neither files nor network nor other processes; \
                       Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it";

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

/// What a message says of refused calls.
pub(crate) fn told(calls: &str) -> String {
    format!("the sandbox refused {calls}, {WAY_OUT}")
}

/// Worker: the message of an item that failed, with what was refused to it.
pub(crate) fn blame(message: String, item: u32) -> String {
    let Some(record) = record().filter(|record| record.is_of(item)) else { return message };
    record.tell(item);
    format!("{message}; {}", told(&named(&record.of_item(item))))
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
/// own, the call.
type Told = (u32, bool, String);

/// Worker: a frame about calls that were refused to items of this batch, which went on.
pub(crate) fn swallowed(ticket: u64) -> Option<Vec<u8>> {
    let told: Vec<Told> = record()?
        .swallowed()
        .into_iter()
        .map(|refusal| (refusal.item, refusal.own_error, refusal.to_string()))
        .collect();
    record()?.begin();
    if told.is_empty() {
        return None;
    }
    let payload = postcard::to_stdvec(&told).expect("numbers and texts can be written");
    Some(Header { kind: Kind::Refusal, batch: ticket, ..Header::EMPTY }.frame(&payload))
}

/// Host: what was refused to that which ran when a worker died.
pub(crate) fn refused_to(page: &Page, ran: Option<(u64, Running)>) -> Option<String> {
    let refused = page.record().of_item(number(ran?.1)?);
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
        for (item, own_error, call) in told.into_iter().take(MOST_CALLS) {
            let index = (item < held.batch.items()).then(|| held.batch.first() + u64::from(item));
            held.refused.push(RefusedCall { index, call: cut(call, MOST), own_error });
        }
        held.refused.truncate(MOST_CALLS);
        Ok(())
    }
}
