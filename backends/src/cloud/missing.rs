//! Files that a function looked for in the cloud and that do not exist there. A file that this machine lacks
//! as well is left out: `map` itself would not have found it. For the others, the item's failure names the
//! file, and the report warns of those that items continued without. Called by `batch_sender`.

use std::fs;

use crate::model::completion::Results;
use crate::model::refused_call::RefusedCall;

/// Advice in the failure for a file that is missing in the cloud.
const REMEDY: &str = "give it with the program (include_bytes!) or as the context (fastmap_with)";

/// Keeps only the missing files that exist on this machine, and appends to each failure the files that its
/// item missed. `first` is the index in the input of the first of `items` items.
pub(super) fn keep_local_files(results: &mut Results, first: u64, items: u32) {
    let offset = |index: u64| index.checked_sub(first).filter(|offset| *offset < u64::from(items));
    results.refused.retain(|call| {
        call.index.is_none_or(|index| offset(index).is_some())
            && (!call.missing || exists_locally(&call.call))
    });
    for failure in &mut results.failures {
        let of_item = |call: &&RefusedCall| {
            call.missing && call.index.and_then(offset) == Some(u64::from(failure.offset))
        };
        let files: Vec<String> =
            results.refused.iter().filter(of_item).map(|file| format!("{:?}", file.call)).collect();
        if !files.is_empty() {
            let files = files.join(" and ");
            let note = format!("; in the cloud there is no {files}, which this machine has: {REMEDY}");
            failure.add(&note);
        }
    }
    let fails = |index: u64| {
        let of_item = |failure: &crate::model::failure::ItemFailure| u64::from(failure.offset);
        offset(index).is_some_and(|offset| results.failures.iter().any(|failure| of_item(failure) == offset))
    };
    results.refused.retain(|call| !call.missing || !call.index.is_some_and(fails));
}

/// Returns whether the file exists on this machine.
fn exists_locally(path: &str) -> bool {
    fs::metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::{FailureKind, ItemFailure};

    #[test]
    fn local_files_are_reported_and_failures_name_their_own() {
        let file = |index: u64, path: &str| RefusedCall {
            index: Some(index),
            call: path.to_owned(),
            own_error: false,
            missing: true,
        };
        let socket =
            RefusedCall { index: Some(100), call: "socket".to_owned(), own_error: false, missing: false };
        let failure = |offset| ItemFailure { offset, kind: FailureKind::Panic, message: "panicked".into() };
        let local = std::env::current_exe().expect("a path").display().to_string();
        let mut results = Results {
            failures: vec![failure(1), failure(2)],
            refused: vec![
                socket.clone(),
                file(100, "/no/such/file"),
                file(102, &local),
                file(103, &local),
                file(99, &local),
                file(104, &local),
            ],
            ..Results::default()
        };
        keep_local_files(&mut results, 100, 4);
        assert_eq!(results.refused, [socket, file(103, &local)]);
        assert_eq!(results.failures[0].message, "panicked");
        let message = &results.failures[1].message;
        assert!(message.contains(&format!("in the cloud there is no {local:?}")), "{message}");
    }
}
