//! System calls that the sandbox refused to the item that runs in this process, added to the item's error.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, OnceLock};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use fastmap_sandbox::{Refusal, named, record};

use crate::model::failure::add;
use crate::model::refused_call::told;

pub(crate) const MOST_CALLS: usize = 64;

/// Files that are told of one failing item.
pub(crate) const MOST_FILES: usize = 3;

pub(crate) const MOST_FILES_IN_JAIL: usize = 1000;

/// Worker: what is to be told beside the record.
#[derive(Debug, Default)]
pub(crate) struct UnreportedDenials {
    /// Files that failing items of this batch looked for.
    pub(crate) files: Vec<Told>,
    /// How many such files were told in all.
    files_told: usize,
    /// What a jailed worker has told of items that went on.
    pub(crate) told: HashSet<(bool, String)>,
}

/// Worker: there is one in a jail.
pub(crate) static UNTOLD: OnceLock<Mutex<UnreportedDenials>> = OnceLock::new();

pub(crate) fn untold() -> Option<MutexGuard<'static, UnreportedDenials>> {
    UNTOLD.get().map(|untold| untold.lock_unpoisoned())
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
pub(crate) type Told = (u32, bool, bool, String);

pub(crate) fn tell(refusal: &Refusal, item: u32) -> Told {
    let text = match refusal.path.as_ref().filter(|_| refusal.missing) {
        Some(path) => path.clone(),
        None => refusal.to_string(),
    };
    (item, refusal.own_error, refusal.missing, text)
}
