//! What a map tells of calls that the sandbox refused to items that have a result all the same: each call
//! once, and few. Asked by the report with each answer; it writes what this gives.

use std::collections::{BTreeMap, HashSet};

use fastmap_backends::RefusedCall;
use fastmap_backends::sandbox::named;

/// Lines about items that went on, and about items that answered an error of their own.
const LINES: usize = 4;

/// What one map has told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Calls, each with the folder of its path: names of temporary files differ from item to item.
    told: HashSet<String>,
    lines: usize,
    error_lines: usize,
}

impl Refusals {
    /// The warnings that are due.
    pub(super) fn news(&mut self, refused: &[RefusedCall]) -> Vec<String> {
        let mut of_items: BTreeMap<(bool, Option<u64>), Vec<&str>> = BTreeMap::new();
        for RefusedCall { index, call, own_error } in refused {
            of_items.entry((!own_error, *index)).or_default().push(call);
        }
        of_items
            .into_iter()
            .filter_map(|((went_on, index), calls)| self.line(went_on, index, &calls))
            .collect()
    }

    fn line(&mut self, went_on: bool, index: Option<u64>, calls: &[&str]) -> Option<String> {
        let lines = if went_on { &mut self.lines } else { &mut self.error_lines };
        if *lines == LINES {
            return None;
        }
        let new: Vec<&str> = if went_on {
            calls.iter().copied().filter(|call| self.told.insert(kind(call).to_owned())).collect()
        } else {
            // All of them: each may be why.
            calls.to_vec()
        };
        if new.is_empty() {
            return None;
        }
        *lines += 1;
        let last = if *lines == LINES { "; further ones of this map are not told" } else { "" };
        let calls = named(&new);
        let told = match index {
            _ if !went_on => format!(
                "{} answered an error of its own (Err), and the sandbox had refused it {calls}",
                item(index)
            ),
            Some(_) => {
                format!("the sandbox refused {calls} to {}, which has a result all the same", item(index))
            }
            None => format!("the sandbox refused {calls} to the preparation of the function, which went on"),
        };
        Some(format!(
            "{told}; Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it (told once a map{last})"
        ))
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
        RefusedCall { index: Some(index), call: call.to_owned(), own_error }
    }

    #[test]
    fn each_call_is_told_once_and_few_are() {
        let mut refusals = Refusals::default();
        let random = |index| refused(index, "openat(\"/dev/urandom\")", false);
        let first = refusals.news(&[random(3), refused(3, "socket", false)]);
        assert_eq!(first.len(), 1);
        assert!(first[0].contains("openat(\"/dev/urandom\") and socket to item 3,"), "{first:?}");
        assert!(refusals.news(&[random(4)]).is_empty());
        let more: Vec<String> = (5..50)
            .flat_map(|index| refusals.news(&[refused(index, &format!("openat(\"/{index}/x\")"), false)]))
            .collect();
        assert_eq!(more.len(), LINES - 1, "{more:#?}");
        assert!(more[LINES - 2].contains("further ones of this map are not told"), "{more:#?}");
    }

    #[test]
    fn an_item_that_answers_an_error_of_its_own_is_told_with_all_of_its_calls() {
        let mut refusals = Refusals::default();
        let random = refused(0, "openat(\"/dev/urandom\")", false);
        assert_eq!(refusals.news(&[random]).len(), 1);
        let calls = ["openat(\"/dev/urandom\")", "openat(\"/tmp/sort\")"];
        let told = refusals.news(&calls.map(|call| refused(7, call, true)));
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("item 7 answered an error") && told[0].contains(calls[1]), "{told:?}");
    }
}
