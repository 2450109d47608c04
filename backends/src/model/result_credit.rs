//! Bytes of results that a batch is granted, and how an answer counts against them. A worker stops behind the
//! item with which the credit is reached; one that is trusted with nothing is also held to it by its host.
//! Used by `task` in the worker, by `local` and by the service, which charges for answers.

use crate::model::failure::ItemFailure;

/// Bytes that an answer may go beyond what was granted: the last item's end is not known before it is there. A result of
/// 64 KiB fits with its length, however little was granted.
pub(crate) const SPARE: u64 = 68 * 1024;
/// What a failure counts beside its message.
pub(crate) const FAILURE: u64 = 64;

/// What failures count.
pub(crate) fn of_failures(failures: &[ItemFailure]) -> u64 {
    failures.iter().map(|failure| FAILURE + failure.message.len() as u64).sum()
}
