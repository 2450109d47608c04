//! System calls that the sandbox refused to the item that runs in this process, added to the item's error.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, OnceLock};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use fastmap_sandbox::{Refusal, named, record};
use serde::{Deserialize, Serialize};

use crate::model::failure::add;
use crate::model::refused_call::denial_message;

pub(crate) const MOST_CALLS: usize = 64;

/// Files that are reported of one failing item.
pub(crate) const MOST_FILES: usize = 3;

pub(crate) const MOST_FILES_IN_JAIL: usize = 1000;

/// Worker: what is to be reported beside the record.
#[derive(Debug, Default)]
pub(crate) struct UnreportedDenials {
    /// Files that failing items of this batch looked for.
    pub(crate) files: Vec<ReportedDenial>,
    /// How many such files were reported in all.
    files_reported: usize,
    /// What a jailed worker has reported of items that went on.
    pub(crate) reported: HashSet<(bool, String)>,
}

/// Worker: there is one in a jail.
pub(crate) static UNREPORTED: OnceLock<Mutex<UnreportedDenials>> = OnceLock::new();

pub(crate) fn unreported() -> Option<MutexGuard<'static, UnreportedDenials>> {
    UNREPORTED.get().map(|unreported| unreported.lock_unpoisoned())
}

/// Worker: the message of an item that failed, with what was refused to it.
pub(crate) fn blame(mut message: String, item: u32) -> String {
    let Some(record) = record().filter(|record| record.is_of(item)) else { return message };
    record.tell(item);
    if let Some(mut unreported) = unreported() {
        let missing = record.missing(item).into_iter().take(MOST_FILES).map(|file| reported(&file, item));
        let left = MOST_FILES_IN_JAIL.saturating_sub(unreported.files_reported);
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

/// A refused call as a worker reports it to its host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReportedDenial {
    /// The number of its item in the batch, or of the preparation.
    pub(crate) item: u32,
    /// Whether the item has answered an error of its own.
    pub(crate) own_error: bool,
    /// Whether there is no such file, instead of a refused call.
    pub(crate) missing: bool,
    /// The call, or the file's path.
    pub(crate) call: String,
}

/// The report of a refusal to that item.
pub(crate) fn reported(refusal: &Refusal, item: u32) -> ReportedDenial {
    let text = match refusal.path.as_ref().filter(|_| refusal.missing) {
        Some(path) => path.clone(),
        None => refusal.to_string(),
    };
    ReportedDenial { item, own_error: refusal.own_error, missing: refusal.missing, call: text }
}
