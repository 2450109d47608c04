//! The report of a map's timings, as files that a program leaves.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fastmap_test_programs::{Running, program};
use serde_json::Value;

/// Starts a scenario to its end; gives its stdout.
fn run(scenario: &[&str], timings: Option<&Path>) -> Vec<String> {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(scenario);
    if let Some(path) = timings {
        command.env("FASTMAP_TIMINGS", path);
    }
    let ended = Running::start(&mut command).finish();
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout
}

/// The JSON that stands in a page.
fn figures(page: &str) -> Value {
    let (_, json) =
        page.split_once("<script type=\"application/json\" id=\"timings\">").expect("it has them");
    let (json, _) = json.split_once("</script>").expect("the element ends");
    serde_json::from_str(json).expect("they are JSON")
}

fn diagnosis(figures: &Value) -> String {
    let sentences = figures["diagnosis"].as_array().expect("sentences");
    sentences.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_straggler_a_death_and_a_slow_input_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.html");
    run(&["timed", "600", "2500"], Some(&path));
    let page = fs::read_to_string(&path).expect("the report");
    let figures = figures(&page);
    let diagnosis = diagnosis(&figures);
    assert!(diagnosis.contains("The input iterator is the limit: reading it took "), "{diagnosis}");
    assert!(diagnosis.contains("Item 300 is a straggler: it took 70"), "{diagnosis}");
    assert!(diagnosis.contains("1 worker was lost"), "{diagnosis}");
    assert!(diagnosis.contains("while it ran item 200"), "{diagnosis}");
    assert_eq!(figures["deaths"]["first"][0]["item"], 200);
    assert_eq!(figures["retries"]["first"][0]["item"], 200);
    assert_eq!(figures["items"]["delivered"], 600);
    let answered: u64 =
        figures["lanes"].as_array().expect("lanes").iter().filter_map(|lane| lane["items"].as_u64()).sum();
    assert_eq!(answered, 600);
    assert!(figures["program"]["input"].as_f64().expect("seconds") >= 1.5, "{}", figures["program"]);
    // A label is text, wherever it stands, and the page asks nobody for anything.
    assert!(!page.contains("<script>"), "the label became an element");
    assert!(page.contains("&lt;script&gt;"));
    for asks in ["http://", "https://", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(asks), "{asks}");
    }
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}

#[test]
fn maps_with_one_path_get_files_of_their_own_and_what_ends_early_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    let from_variable = folder.path().join("variable.html");
    let stdout = run(&["timed-twice", path.to_str().expect("it is text")], Some(&from_variable));
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(folder.path().join(name)).expect(name);
        serde_json::from_str(&text).expect(name)
    };
    let (first, second, third) = (read("report.json"), read("report-2.json"), read("report-3.json"));
    assert_eq!((&first["items"]["delivered"], &first["complete"]), (&1000.into(), &true.into()));
    assert_eq!((&second["items"]["delivered"], &second["complete"]), (&1.into(), &false.into()));
    assert_eq!(third["items"]["delivered"], 1);
    let files = fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(files, 3, "neither a map inside a map nor an overridden variable writes");
    let unwritable = stdout.iter().find(|line| line.starts_with("unwritable ")).expect("it is told");
    assert!(unwritable.contains("Io") && unwritable.contains("/nowhere/at/all.html"), "{unwritable}");
    assert!(unwritable.contains("FASTMAP_TIMINGS"), "{unwritable}");
}

#[test]
fn a_killed_program_leaves_a_file_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.html");
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    let mut host = Running::start(command.args(["hold", "sleep"]).env("FASTMAP_TIMINGS", &path));
    host.line("begun");
    let begun = Instant::now();
    loop {
        let page = fs::read_to_string(&path).unwrap_or_default();
        if page.contains("has not ended yet") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not say so: {page}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
