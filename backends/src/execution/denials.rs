//! System calls that the sandbox denied to the item running in this process; they are added to the item's
//! error.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, OnceLock};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use fastmap_sandbox::{Refusal, named, record};
use serde::{Deserialize, Serialize};

use crate::model::failure::add;
use crate::model::refused_call::denial_message;

pub(crate) const MOST_CALLS: usize = 64;

/// Maximum files reported for one failing item.
pub(crate) const MAX_FILES: usize = 3;

pub(crate) const MAX_FILES_IN_JAIL: usize = 1000;

/// Worker: denials to report that the record does not have.
#[derive(Debug, Default)]
pub(crate) struct UnreportedDenials {
    /// Missing files that failing items of this batch looked for.
    pub(crate) files: Vec<ReportedDenial>,
    /// Total number of such files reported.
    files_reported: usize,
    /// Denials that a jailed worker has reported for items that continued.
    pub(crate) reported: HashSet<(bool, String)>,
}

/// Worker: set only in a jail.
pub(crate) static UNREPORTED: OnceLock<Mutex<UnreportedDenials>> = OnceLock::new();

pub(crate) fn unreported() -> Option<MutexGuard<'static, UnreportedDenials>> {
    UNREPORTED.get().map(|unreported| unreported.lock_unpoisoned())
}

/// Worker: appends the denials of a failed item to its message.
pub(crate) fn blame(mut message: String, item: u32) -> String {
    let Some(record) = record().filter(|record| record.is_of(item)) else { return message };
    record.tell(item);
    if let Some(mut unreported) = unreported() {
        let missing = record.missing(item).into_iter().take(MAX_FILES).map(|file| reported(&file, item));
        let left = MAX_FILES_IN_JAIL.saturating_sub(unreported.files_reported);
        let room = left.min(MOST_CALLS.saturating_sub(unreported.files.len()));
        let before = unreported.files.len();
        unreported.files.extend(missing.take(room));
        unreported.files_reported += unreported.files.len() - before;
    }
    match record.of_item(item) {
        refused if refused.is_empty() => message,
        refused => {
            add(&mut message, &format!("; {}", denial_message(&named(&refused))));
            message
        }
    }
}

/// Worker: whether a call was denied to this item, the latest one.
#[inline]
pub(crate) fn was_refused(item: u32) -> bool {
    record().is_some_and(|record| record.is_of(item))
}

/// Worker: records that this item has returned an error of its own.
pub(crate) fn answered_error(item: u32) {
    if let Some(record) = record() {
        record.answered_error(item);
    }
}

/// A denied call as a worker reports it to its host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReportedDenial {
    /// Position of its item in the batch, or the value for the preparation.
    pub(crate) item: u32,
    /// Whether the item has returned an error of its own.
    pub(crate) own_error: bool,
    /// Whether this is a missing file instead of a denied call.
    pub(crate) missing: bool,
    /// The call, or the file's path.
    pub(crate) call: String,
}

/// The report of a denial for this item.
pub(crate) fn reported(refusal: &Refusal, item: u32) -> ReportedDenial {
    let text = match refusal.path.as_ref().filter(|_| refusal.missing) {
        Some(path) => path.clone(),
        None => refusal.to_string(),
    };
    ReportedDenial { item, own_error: refusal.own_error, missing: refusal.missing, call: text }
}
