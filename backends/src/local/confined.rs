//! How a worker confines itself, and how a refused call finds its way to the user: into the failure of the item that made
//! it, into the death of its worker, or, where the item went on, to the host, which warns once.
//! Called by `worker` and `Work` on one side, by `pool` and `reader` on the other; calls the crate `sandbox`.

use std::sync::Arc;

use fastmap_sandbox::{Demand, Lack, Layer, named, record};

use super::page::{Page, SETUP};
use super::pool::Shared;
use crate::completion::{RefusedCall, Running};
use crate::wire::{Header, Kind};

/// More of a call's description is not believed.
const MOST: usize = 500;

/// Confines this process, and returns whether it can start no others. To be called when all channels are made and no
/// thread is.
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
    format!(
        "the sandbox refused {calls}, for a mapped function uses neither files nor network nor other processes; \
         Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it"
    )
}

/// Worker: the message of an item that failed, with what was refused to it.
pub(crate) fn blame(message: String, item: u32) -> String {
    let Some(record) = record() else { return message };
    let Some(refusal) = record.of_item(item) else { return message };
    record.tell();
    format!("{message}; {}", told(&refusal.to_string()))
}

/// Worker: a frame about a call that was refused to an item of this batch, which went on.
pub(crate) fn swallowed(ticket: u64) -> Option<Vec<u8>> {
    let refusal = record()?.swallowed()?;
    record()?.begin();
    let header = Header { kind: Kind::Refusal, batch: ticket, from: refusal.item, ..Header::EMPTY };
    Some(header.frame(refusal.to_string().as_bytes()))
}

/// Host: what was refused to that which ran when a worker died.
pub(crate) fn refused_to(page: &Page, ran: Option<(u64, Running)>) -> Option<String> {
    let item = match ran?.1 {
        Running::Item(item) => item,
        Running::Setup => SETUP,
        Running::Unknown => return None,
    };
    page.record().of_item(item).map(|refusal| refusal.to_string())
}

impl Shared {
    /// A worker tells of a refused call. What it says of a batch that it has not is nothing.
    pub(crate) fn refusal(&self, id: u64, header: &Header, call: &[u8]) {
        let call = String::from_utf8_lossy(&call[..call.len().min(MOST)]).into_owned();
        let mut state = self.lock();
        let Some(member) = state.member(id) else { return };
        let Some(held) = member.held.iter_mut().find(|held| held.batch.ticket() == header.batch) else {
            return;
        };
        let index = (header.from < held.batch.items()).then(|| held.batch.first() + u64::from(header.from));
        held.refused = Some(RefusedCall { index, call });
    }
}
