//! Calls that wait for the disk or for a clock, found in the sources: in `api`, `app` and `dashboard` they are in a closure
//! for a thread that may wait. On a thread of the runtime they would hold up the requests of all accounts.

use std::path::Path;

/// Calls that wait.
const WAIT: [&str; 15] = [
    "fs::",
    "File::open(",
    "File::create",
    "OpenOptions::",
    ".exists()",
    ".sync_all()",
    "read_exact_at(",
    "write_all_at(",
    "thread::sleep(",
    "spool.put(",
    "spool.get(",
    "spool.open(",
    "spool.full(",
    "spool.runs(",
    "spool.remove_",
];
/// What takes a closure to a thread that may wait.
const MAY_WAIT: [&str; 2] = ["spawn_blocking(", "blocking("];
/// What is right all the same, and why.
const RIGHT: [(&str, &str); 1] = [
    // A small answer is in the disk's cache before another thread would have begun.
    ("api/answers.rs", "self.spool.put(run, body)"),
];
/// Functions that wait, which are called within such a closure alone.
const WAITING: [(&str, &str); 5] = [
    ("api/partial_uploads.rs", "append"),
    ("api/partial_uploads.rs", "announced_in"),
    ("api/partial_uploads.rs", "blobs_older"),
    ("api/partial_uploads.rs", "sweep_uploads"),
    ("api/partial_uploads.rs", "unpack"),
];

/// Where the sign that closes what was opened before `begin` is.
fn closed(text: &str, begin: usize, signs: [char; 2]) -> usize {
    let mut depth = 1;
    let end = text[begin..].find(|sign: char| {
        depth += i32::from(sign == signs[0]) - i32::from(sign == signs[1]);
        depth == 0
    });
    end.map_or(text.len(), |end| begin + end)
}

/// The places of calls that wait, in a source without its tests, outside closures that may and these functions.
fn waiting(source: &str, functions: &[&str]) -> Vec<usize> {
    let text = source.split("#[cfg(test)]").next().unwrap_or_default();
    let closures = MAY_WAIT.iter().flat_map(|call| {
        text.match_indices(call)
            .map(|(at, found)| at + found.len()..closed(text, at + found.len(), ['(', ')']))
    });
    let bodies = functions.iter().map(|name| {
        let begin = text.find(&format!("fn {name}(")).expect("the function is in its file");
        let brace = begin + text[begin..].find('{').expect("a body") + 1;
        begin..closed(text, brace, ['{', '}'])
    });
    let mut spans: Vec<_> = closures.collect();
    // A call of such a function waits, too.
    let mut names: Vec<String> = functions.iter().map(|name| format!("{name}(")).collect();
    spans.extend(bodies);
    names.extend(WAIT.map(str::to_owned));
    let whole_word = |at: &usize| {
        let before = &text[..*at];
        let in_word = before.ends_with(|sign: char| sign.is_alphanumeric() || sign == '_');
        (!in_word || text[*at..].starts_with('.')) && !before.ends_with("tokio::")
    };
    let calls = names.iter().flat_map(|call| text.match_indices(call.as_str()).map(|(at, _)| at));
    let calls = calls.filter(whole_word);
    let line = |at: usize| text[..at].rfind('\n').map_or(0, |end| end + 1);
    calls
        .filter(|at| !spans.iter().any(|span| span.contains(at)))
        .filter(|at| !["use ", "//"].iter().any(|begin| text[line(*at)..].trim_start().starts_with(begin)))
        .collect()
}

#[test]
fn no_call_that_waits_is_made_on_a_thread_of_the_runtime() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for folder in ["api", "app", "dashboard"] {
        for entry in std::fs::read_dir(sources.join(folder)).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(&sources).expect("below it").display().to_string();
            if path.is_dir() {
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source");
            let functions: Vec<&str> =
                WAITING.iter().filter(|(file, _)| *file == name).map(|(_, function)| *function).collect();
            for at in waiting(&source, &functions) {
                let begin = source[..at].rfind('\n').map_or(0, |end| end + 1);
                let line = source[begin..].lines().next().unwrap_or_default().trim();
                if !RIGHT.contains(&(name.as_str(), line)) {
                    found.push(format!("{name}:{}: {line}", source[..at].lines().count()));
                }
            }
        }
    }
    assert!(found.is_empty(), "calls that wait, outside spawn_blocking: {found:#?}");
}

#[test]
fn a_call_that_waits_is_found_outside_a_closure_that_may() {
    assert_eq!(waiting("async fn f() { std::fs::read(path) }", &[]).len(), 1);
    assert_eq!(
        waiting("async fn f() { spawn_blocking(move || (fs::read(path), 1)).await; fs::read(b) }", &[]).len(),
        1
    );
    assert!(
        waiting("use std::fs::File;\n// fs::read\nspawn_blocking(|| { fs::read(path) })", &[]).is_empty()
    );
    assert!(waiting("fn g() { fs::read(path) } async fn f() { blocking(|| g()).await }", &["g"]).is_empty());
    assert_eq!(waiting("fn g() { fs::read(path) } async fn f() { g() }", &["g"]).len(), 1);
}
