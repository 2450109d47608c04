//! Large contexts: written once, mapped by all workers, and gone at the end of their map.
//!
//! `FASTMAP_TEST_CONTEXT_BYTES=1000000000` takes one of a gigabyte, of each kind.

use fastmap_test_programs::{Report, Running, program};

/// Numbers of a line `context name number name number …`, by name.
fn numbers(lines: &[String]) -> impl Fn(&str) -> u64 {
    let line = lines.iter().find_map(|line| line.strip_prefix("context held")).expect("the host measures");
    let words: Vec<String> = format!("held{line}").split_whitespace().map(str::to_owned).collect();
    move |name| {
        let at = words.iter().position(|word| word == name).expect("it is measured");
        words[at + 1].parse().expect("a number")
    }
}

/// Runs a map with such a context, once with workers that are confined and once with others, and looks at its memory.
fn one_copy(kind: &str, processes: u64) {
    let bytes = std::env::var("FASTMAP_TEST_CONTEXT_BYTES").ok();
    let bytes = bytes.as_deref().map_or(20_000_000, |text| text.parse::<u64>().expect("a number"));
    for sandbox in ["off", "require"] {
        let mut command = program(env!("CARGO_BIN_EXE_host"));
        command.args(["context", kind, &bytes.to_string()]).env("FASTMAP_SANDBOX", sandbox);
        command.env("FASTMAP_LOCAL_PROCESSES", processes.to_string());
        let ended = Running::start(&mut command).finish();
        assert!(ended.status.success(), "{ended:#?}");
        let report = Report::read(&ended.stdout);
        assert_eq!((report.answers, report.good), (40, 40), "{:#?}", report.errors);
        assert!(ended.stdout.iter().any(|line| line == "context files during 1"), "{ended:#?}");
        let line = ended.stdout.iter().find(|line| line.starts_with("context held")).expect("measured");
        println!("{kind}, {processes} workers, sandbox {sandbox}: {line}");
        let number = numbers(&ended.stdout);
        let slack = 24 * 1024;
        // The host never holds more than the context itself.
        assert!(number("host") <= number("held") + slack, "{line}");
        // A worker holds what it has made of it, and no encoded copy beside.
        assert!(number("worker") <= number("held") + slack, "{line}");
    }
}

#[test]
fn bytes_are_one_file_that_all_workers_map() {
    one_copy("bytes", 3);
}

#[test]
fn numbers_are_one_file_that_all_workers_map() {
    one_copy("floats", 2);
}

#[test]
fn what_serde_writes_piece_by_piece_is_one_file_that_all_workers_map() {
    one_copy("words", 2);
}
