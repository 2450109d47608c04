//! Result credit of a batch, and how an answer counts against it. A worker stops after the item with which
//! the credit is reached; the host enforces it for untrusted workers. Used by `task` in the worker, by
//! `local` and by the service, which charges for answers.

use crate::model::failure::ItemFailure;

/// Bytes by which an answer may exceed its limit, because the last item's size is not known in advance. A
/// result of 64 KiB fits with its length, even if the limit is lower.
pub(crate) const SPARE: u64 = 68 * 1024;
/// Bytes that a failure counts in addition to its message.
pub(crate) const FAILURE: u64 = 64;

/// Bytes that failures count.
pub(crate) fn of_failures(failures: &[ItemFailure]) -> u64 {
    failures.iter().map(|failure| FAILURE + failure.message.len() as u64).sum()
}
