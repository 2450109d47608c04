//! What a map tells of calls that the sandbox refused to items that have a result all the same, and of files
//! that they did not find in the cloud: each once, and few. Asked by the report with each answer; it writes
//! what this gives.

use std::collections::{BTreeMap, HashSet};

use fastmap_backends::RefusedCall;
use fastmap_backends::sandbox::named;

/// Lines about items that went on, and about items that answered an error of their own.
const LINES: usize = 4;

/// What to do about a refused call, and about a file that the cloud has not.
const ALLOWS: &str = "Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it on this machine";
const GIVES: &str = "give it with the program (include_bytes!) or as the context (fastmap_with)";

/// What one map has told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Calls, each with the folder of its path: names of temporary files differ from item to item.
    reported: HashSet<String>,
    lines: usize,
    error_lines: usize,
}

impl Refusals {
    /// The warnings that are due.
    pub(super) fn new_warnings(&mut self, refused: &[RefusedCall]) -> Vec<String> {
        let mut of_items: BTreeMap<(bool, Option<u64>), Vec<&RefusedCall>> = BTreeMap::new();
        for call in refused {
            of_items.entry((!call.own_error, call.index)).or_default().push(call);
        }
        of_items
            .into_iter()
            .filter_map(|((went_on, index), calls)| self.line(went_on, index, &calls))
            .collect()
    }

    fn line(&mut self, went_on: bool, index: Option<u64>, calls: &[&RefusedCall]) -> Option<String> {
        let lines = if went_on { &mut self.lines } else { &mut self.error_lines };
        if *lines == LINES {
            return None;
        }
        // Of an item's own error each of them may be why.
        let is_new = |call: &&&RefusedCall| !went_on || self.reported.insert(kind(&call.call).to_owned());
        let (files, calls): (Vec<&RefusedCall>, Vec<&RefusedCall>) =
            calls.iter().filter(is_new).copied().partition(|call| call.missing);
        if files.is_empty() && calls.is_empty() {
            return None;
        }
        *lines += 1;
        let last = if *lines == LINES { "; further ones of this map are not reported" } else { "" };
        let named_calls = named(&calls.iter().map(|call| &call.call).collect::<Vec<_>>());
        let named_files = named(&files.iter().map(|file| format!("{:?}", file.call)).collect::<Vec<_>>());
        let absent = format!("in the cloud there is no {named_files}, which this machine has");
        let (to, after) = match index {
            None => ("the preparation of the function".to_owned(), "which went on"),
            Some(_) => (item(index), "which has a result all the same"),
        };
        let of_calls = match went_on {
            true => format!("the sandbox refused {named_calls} to {to}, {after}"),
            false => format!("the sandbox had refused it {named_calls}"),
        };
        let of_files = match went_on {
            true => format!("{absent}: {to} looked for it, {after}"),
            false => absent,
        };
        let (has_calls, has_files) = (!calls.is_empty(), !files.is_empty());
        let both = |of_calls: &str, of_files: &str| -> String {
            let all = [has_calls.then_some(of_calls), has_files.then_some(of_files)];
            all.into_iter().flatten().collect::<Vec<_>>().join("; ")
        };
        let begin = if went_on {
            String::new()
        } else {
            format!("{} answered an error of its own (Err), and ", item(index))
        };
        let (reported, remedies) = (both(&of_calls, &of_files), both(ALLOWS, GIVES));
        Some(format!("{begin}{reported}; {remedies} (reported once a map{last})"))
    }
}

fn item(index: Option<u64>) -> String {
    index.map_or_else(|| "an item".to_owned(), |index| format!("item {index}"))
}

/// The call with the folder of its path.
fn kind(call: &str) -> &str {
    call.rsplit_once('/').map_or(call, |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(index: u64, call: &str, own_error: bool) -> RefusedCall {
        RefusedCall { index: Some(index), call: call.to_owned(), own_error, missing: false }
    }

    #[test]
    fn each_call_is_told_once_and_few_are() {
        let mut refusals = Refusals::default();
        let random = |index| refused(index, "openat(\"/dev/urandom\")", false);
        let first = refusals.new_warnings(&[random(3), refused(3, "socket", false)]);
        assert_eq!(first.len(), 1);
        assert!(first[0].contains("openat(\"/dev/urandom\") and socket to item 3,"), "{first:?}");
        assert!(refusals.new_warnings(&[random(4)]).is_empty());
        let more: Vec<String> = (5..50)
            .flat_map(|index| {
                refusals.new_warnings(&[refused(index, &format!("openat(\"/{index}/x\")"), false)])
            })
            .collect();
        assert_eq!(more.len(), LINES - 1, "{more:#?}");
        assert!(more[LINES - 2].contains("further ones of this map are not reported"), "{more:#?}");
    }

    #[test]
    fn an_item_that_answers_an_error_of_its_own_is_told_with_all_of_its_calls() {
        let mut refusals = Refusals::default();
        let random = refused(0, "openat(\"/dev/urandom\")", false);
        assert_eq!(refusals.new_warnings(&[random]).len(), 1);
        let calls = ["openat(\"/dev/urandom\")", "openat(\"/tmp/sort\")"];
        let reported = refusals.new_warnings(&calls.map(|call| refused(7, call, true)));
        assert_eq!(reported.len(), 1);
        assert!(
            reported[0].contains("item 7 answered an error") && reported[0].contains(calls[1]),
            "{reported:?}"
        );
    }

    #[test]
    fn a_file_that_the_cloud_has_not_is_told_with_what_to_do() {
        let mut refusals = Refusals::default();
        let file = |index| RefusedCall { missing: true, ..refused(index, "/usr/share/proj/proj.db", false) };
        let reported = refusals.new_warnings(&[file(3)]);
        let words = [
            "in the cloud there is no \"/usr/share/proj/proj.db\", which this machine has: item 3 looked",
            "fastmap_with",
        ];
        assert!(reported.len() == 1 && words.iter().all(|words| reported[0].contains(words)), "{reported:?}");
        assert!(!reported[0].contains("sandbox"), "{reported:?}");
        assert!(refusals.new_warnings(&[file(4)]).is_empty());
        let both = [refused(5, "socket", true), RefusedCall { own_error: true, ..file(5) }];
        let reported = refusals.new_warnings(&both);
        for words in
            ["item 5 answered an error", "refused it socket; in the cloud there is no", "SANDBOX=off"]
        {
            assert!(reported.len() == 1 && reported[0].contains(words), "{words}: {reported:?}");
        }
    }
}
