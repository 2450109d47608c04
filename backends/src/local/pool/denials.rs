//! Refused system calls that workers report: kept for the item's result, added to a death, or a warning where the item still runs.

use std::time::{Duration, Instant};

use fastmap_sandbox::named;

use crate::execution::denials::{MOST_CALLS, ReportedDenial};
use crate::local::ipc::shared_page::{SETUP, SharedPage};
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::state::PoolState;
use crate::model::death::Running;
use crate::model::protocol_error::ProtocolError;
use crate::model::refused_call::{RefusedCall, WAY_OUT};
use crate::model::text::cut;

/// Bytes of a call's description that are kept; the rest is cut off.
pub(crate) const MOST: usize = 500;

/// An item that runs for so long, and was refused a call, may never end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Items of one run about which such a warning is written, at most.
pub(crate) const MOST_DOUBTED: usize = 3;

/// Host: the calls that were refused to the item, or to the preparation, that ran when a worker died.
pub(crate) fn refused_to(page: &SharedPage, ran: Option<(u64, Running)>) -> Option<String> {
    let item = number(ran?.1)?;
    let mut refused = page.record().of_item(item);
    refused.extend(page.record().missing(item));
    (!refused.is_empty()).then(|| named(&refused))
}

/// The number that stands for it in the record of refused calls; `None` if no single item ran.
pub(crate) fn number(running: Running) -> Option<u32> {
    match running {
        Running::Item(item) => Some(item),
        Running::Setup => Some(SETUP),
        Running::Unknown => None,
    }
}

/// Host: warns of calls that were refused to items that still run, because a library may wait for ever for
/// what it was refused. Returns when to look again.
pub(crate) fn doubt_items(state: &mut PoolState, now: Instant) -> Option<Duration> {
    if !state.confined || state.runs.is_empty() {
        return None;
    }
    for member in &mut state.workers {
        let Some(running) = member.page.running() else {
            member.seen.doubted = None;
            continue;
        };
        // The page does not say since when an item runs, so that the time counts from the first look that saw
        // it.
        let (since, warned) = match member.seen.doubted {
            Some((before, since, warned)) if before == running => (since, warned),
            _ => (now, false),
        };
        member.seen.doubted = Some((running, since, warned));
        if warned || now.saturating_duration_since(since) < PATIENCE {
            continue;
        }
        let held = member.held().iter().find(|held| held.batch.ticket() == running.0 && !held.abandoned);
        let Some((job, first)) = held.map(|held| (held.batch.job(), held.batch.first())) else { continue };
        let Some(run) = state.runs.get_mut(&job).filter(|run| run.doubted < MOST_DOUBTED) else {
            continue;
        };
        let refused = number(running.1).map(|item| member.page.record().in_earnest(item)).unwrap_or_default();
        if refused.is_empty() {
            continue;
        }
        let calls = named(&refused);
        member.seen.doubted = Some((running, since, true));
        run.doubted += 1;
        let what = match running.1 {
            Running::Item(item) => format!("item {}, which", first + u64::from(item)),
            _ => "the preparation of the function, which".to_owned(),
        };
        state.errands.warnings.push(format!(
            "fastmap: warning: the sandbox refused {calls} to {what} still runs after {} s: it may be waiting for that; \
             {WAY_OUT}\n",
            PATIENCE.as_secs()
        ));
    }
    Some(PATIENCE / 3)
}

impl PoolHandle {
    /// A worker reports refused calls. A report about a batch that it does not hold is ignored.
    ///
    /// # Errors
    /// If the report can't be read.
    pub(crate) fn on_denied(&self, id: u64, ticket: u64, payload: &[u8]) -> Result<(), ProtocolError> {
        // Read before the lock is taken, because it may be long.
        let report: Vec<ReportedDenial> = postcard::from_bytes(payload)?;
        let mut state = self.lock();
        let Some(member) = state.member(id) else { return Ok(()) };
        let Some(held) = member.life.connection_mut().and_then(|worker| worker.on_denied(ticket)) else {
            return Ok(());
        };
        // The number of the preparation, or one that the batch does not have, belongs to no item.
        for ReportedDenial { item, own_error, missing, call } in report.into_iter().take(MOST_CALLS) {
            let index = (item < held.batch.items()).then(|| held.batch.first() + u64::from(item));
            held.refused.push(RefusedCall { index, call: cut(call, MOST), own_error, missing });
        }
        // The preparation and the run of a batch report each for themselves, so that the sum is bounded as
        // well.
        held.refused.truncate(MOST_CALLS);
        Ok(())
    }
}
