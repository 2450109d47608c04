//! How a worker confines itself, or has a jail watched that confines it, and how a refused call finds its way to
//! the user: into the failure of the item that made it, into the death of its worker, or, where the item went
//! on or still runs, to the host, which warns. Files that a jail has not go the same way. Called by `worker`
//! and `Work` on one side, by `pool` and `reader` on the other; calls the crate `sandbox`.

use std::sync::{Arc, Mutex};

use fastmap_sandbox::{ConfinementLevel, Layer, MissingFeature, record};

use crate::execution::denials::{ReportedDenial, UNREPORTED, UnreportedDenials, reported, unreported};
use crate::local::ipc::shared_page::SharedPage;
use crate::model::frame::{Header, ToHost};

/// Most calls that a jailed worker reports in its life: refused ones of items that went on, and files that
/// failing items looked for. Reports count as output, which is limited.
const MOST_IN_JAIL: usize = 64;

/// Confines this process, and returns whether it can start no others. To be called when all channels are made
/// and no thread is.
///
/// # Errors
/// For [`ConfinementLevel::Full`], what the kernel lacks.
pub(crate) fn confine(page: &Arc<SharedPage>, demand: ConfinementLevel) -> Result<bool, MissingFeature> {
    if demand == ConfinementLevel::Off {
        return Ok(false);
    }
    // The signal handler writes to it until the process ends.
    let page: &'static Arc<SharedPage> = Box::leak(Box::new(Arc::clone(page)));
    let confinement = fastmap_sandbox::confine(demand, page.record(), page.item())?;
    if let Some(why) = confinement.no_temporary_files {
        log::debug!("this worker has no /tmp and no /dev/shm of its own: {why}");
    }
    for lack in confinement.missing_features {
        // The host has warned of what it could know.
        log::warn!("this worker is not fully confined: {lack} ({})", lack.why);
    }
    Ok(confinement.holding.contains(&Layer::Seccomp))
}

/// Has this process, which is in a jail, write down what it is refused there. To be called when all channels are
/// made and no thread is. Without it nothing else is different.
pub(crate) fn watch(page: &Arc<SharedPage>) {
    // The signal handler writes to it until the process ends.
    let page: &'static Arc<SharedPage> = Box::leak(Box::new(Arc::clone(page)));
    match fastmap_sandbox::watch(page.record(), page.item()) {
        Ok(()) => drop(UNREPORTED.set(Mutex::default())),
        Err(why) => log::debug!("what the jail refuses is not reported: {why}"),
    }
}

/// Worker: a frame about calls that were refused to items of this batch, which went on, and about files that are
/// not there, of all items.
pub(crate) fn swallowed(ticket: u64) -> Option<Vec<u8>> {
    let record = record()?;
    let refused = record.swallowed().into_iter().map(|refusal| reported(&refusal, refusal.item));
    let report: Vec<ReportedDenial> = match unreported() {
        None => refused.collect(),
        Some(mut unreported) => {
            let UnreportedDenials { files, reported, .. } = &mut *unreported;
            let new = |call: &ReportedDenial| {
                reported.len() < MOST_IN_JAIL && reported.insert((call.own_error, call.call.clone()))
            };
            std::mem::take(files).into_iter().chain(refused.filter(new)).collect()
        }
    };
    record.begin();
    if report.is_empty() {
        return None;
    }
    let payload = postcard::to_stdvec(&report).expect("numbers and texts can be written");
    Some(Header::frame(ToHost::SandboxDenial { ticket }, &payload))
}
