//! Verifies the results of a completion item by item. Called by `trial` for every completion with results.

use crate::conformance::test_functions::{Expected, expected};
use crate::model::batch::Items;
use crate::model::completion::Results;

/// Verifies the answers to these items, each with its index. Each item must have its own result or failure,
/// in order, and there must be no others. `credit`: before the last item, the results must have fewer bytes
/// than this.
///
/// # Errors
/// Describes the first mismatch.
pub(super) fn verify<'a>(
    items: impl Iterator<Item = (usize, &'a [u8])>,
    credit: u64,
    context: &[u8],
    results: &Results,
) -> Result<(), String> {
    let mut failures = results.failures.iter().peekable();
    let bytes = results.payload.bytes();
    let mut payload = Items::new(bytes, None);
    let mut before_last = 0;
    for (offset, (index, item)) in items.enumerate() {
        before_last = payload.position() as u64;
        let failure = failures.next_if(|failure| failure.offset as usize == offset);
        match (expected(item, context), failure) {
            (Expected::Result(right), None) => {
                let found = payload.next().ok_or_else(|| format!("item {index} has no result"))?;
                if found != right {
                    return Err(format!(
                        "item {index} has a result that is not its own ({} bytes beginning {:?}, not {} \
                         beginning {:?})",
                        found.len(),
                        &found[..found.len().min(16)],
                        right.len(),
                        &right[..right.len().min(16)]
                    ));
                }
            }
            (Expected::Failure(kind, words), Some(failure)) => {
                if failure.kind != kind || failure.message != words {
                    return Err(format!("item {index} failed by {words:?} and is said to by {failure:?}"));
                }
            }
            (Expected::Result(_), Some(failure)) => {
                return Err(format!("item {index} is said to have failed: {failure:?}"));
            }
            (Expected::Failure(..), None) => {
                return Err(format!("item {index} failed, and no failure stands at its offset {offset}"));
            }
            (Expected::WorkerExit, _) => {
                return Err(format!("item {index} ends its process, and was answered all the same"));
            }
        }
    }
    if let Some(failure) = failures.next() {
        return Err(format!("a failure of no item, or out of order: {failure:?}"));
    }
    if before_last >= credit {
        return Err(format!("{} bytes of results, where the credit was {credit}", bytes.len()));
    }
    if payload.position() < bytes.len() {
        return Err("there are more results than items".to_owned());
    }
    Ok(())
}
