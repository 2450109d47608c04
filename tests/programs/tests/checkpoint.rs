//! Maps with a checkpoint whose host is killed, and files and inputs that don't fit: work is done once, and no result
//! is a wrong one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use fastmap_test_programs::{Ended, LIMIT, Report, Running, program, until, write_program};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// A folder with a checkpoint and the log of what was executed.
struct Case {
    folder: TempDir,
    program: PathBuf,
}

impl Case {
    fn new() -> Case {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_host"));
        Case { folder: TempDir::new().expect("a folder"), program }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn command(&self, items: u64, milliseconds: u64, wishes: &[&str]) -> Command {
        let mut command = program(self.program.to_str().expect("a plain path"));
        command.arg("checkpoint").arg(self.file()).arg(self.log());
        command.args([items.to_string(), milliseconds.to_string()]).args(wishes);
        command
    }

    fn run(&self, items: u64, milliseconds: u64, wishes: &[&str]) -> Report {
        let ended = Running::start(&mut self.command(items, milliseconds, wishes)).finish();
        assert!(ended.status.success(), "{ended:#?}");
        Report::read(&ended.stdout)
    }

    /// All results are good.
    fn completes(&self, items: u64, wishes: &[&str]) {
        self.completes_of(items, 0, wishes);
    }

    fn completes_of(&self, items: u64, milliseconds: u64, wishes: &[&str]) {
        let report = self.run(items, milliseconds, wishes);
        assert_eq!((report.answers as u64, report.good as u64), (items, items), "{:#?}", report.errors);
    }

    /// One error that ends the map and names the file; gives its text.
    fn refuses(&self, items: u64, wishes: &[&str]) -> String {
        let report = self.run(items, 0, wishes);
        assert_eq!(report.answers, report.good + 1, "{report:#?}");
        let error = &report.errors[0];
        assert_eq!((&*error.kind, error.index), ("Checkpoint", None), "{error:?}");
        assert!(error.text.contains(self.file().to_str().expect("a plain path")), "{error:?}");
        error.text.clone()
    }

    /// Items in the order of their executions.
    fn executed(&self) -> Vec<u64> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(|line| line.parse().expect("a number")).collect()
    }
}

/// Ranges of items in lines of a loud map, `… BEGIN first..end …`.
fn ranges(ended: &Ended, begin: &str) -> Vec<(u64, u64)> {
    let after = |line: &str| {
        let (_, rest) = line.split_once(begin)?;
        let (first, end) = rest.split_whitespace().next()?.split_once("..")?;
        Some((first.parse().ok()?, end.parse().ok()?))
    };
    ended.stderr.lines().filter_map(after).collect()
}

fn items(ranges: &[(u64, u64)]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|(first, end)| *first..*end).collect()
}

/// A map that takes so long, whose host is killed so often at random moments.
fn killed(seconds: u64, kills: u64) {
    const MILLISECONDS: u64 = 10;
    /// Batches that may be in flight: four for each of two workers while they are short.
    const PLACES: usize = 8;
    let case = Case::new();
    // By two workers.
    let count = seconds * 1000 / MILLISECONDS * 2;
    let mut random: u64 =
        std::env::var("FASTMAP_TEST_SEED").map_or(4, |seed| seed.parse().expect("a number"));
    println!("FASTMAP_TEST_SEED={random}");
    let (mut done, mut redone) = (0, 0);
    // Batches whose answers had not reached the host when it was killed, or had just: by the kill.
    let mut lost: Vec<Vec<(u64, u64)>> = Vec::new();
    for kill in 0..=kills {
        let mut command = case.command(count, MILLISECONDS, &[]);
        let running = Running::start(command.env("FASTMAP_VERBOSITY", "loud"));
        if kill < kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let longest = seconds * 1000 / kills;
            sleep(Duration::from_millis(50 + (random >> 33) % longest));
            running.signal(Signal::SIGKILL);
        }
        if kill == kills {
            // A long map is given its time, as long as it goes on.
            let distinct = || case.executed().into_iter().collect::<BTreeSet<u64>>().len() as u64;
            let mut seen = distinct();
            while seen < count {
                let before = seen;
                until("another item", LIMIT, || {
                    seen = distinct();
                    seen > before
                });
            }
        }
        let ended = running.finish();
        let log = case.executed();
        let before: BTreeSet<u64> = log[..done].iter().copied().collect();
        let now: BTreeSet<u64> = log[done..].iter().copied().collect();
        assert_eq!(now.len(), log.len() - done, "one run executes no item twice");
        let again: BTreeSet<u64> = before.intersection(&now).copied().collect();
        println!("run {kill}: {} executed, {} of them again", now.len(), again.len());
        let explained: BTreeSet<u64> = lost.iter().flat_map(|batches| items(batches)).collect();
        assert!(
            again.is_subset(&explained),
            "not in flight and yet executed again: {again:?}, {explained:?}"
        );
        for (earlier, batches) in lost.iter().enumerate() {
            let of_it = batches.iter().filter(|batch| again.range(batch.0..batch.1).next().is_some()).count();
            assert!(of_it <= PLACES, "{of_it} batches again for kill {earlier}");
        }
        redone += again.len();
        done = log.len();
        if kill == kills {
            let report = Report::read(&ended.stdout);
            assert_eq!((report.answers as u64, report.good as u64), (count, count), "{:#?}", report.errors);
            break;
        }
        let answered = ranges(&ended, "answered items ");
        let kept = items(&answered[..answered.len().saturating_sub(PLACES)]);
        let open = ranges(&ended, "sent items ");
        let open: Vec<_> =
            open.into_iter().filter(|batch| (batch.0..batch.1).any(|n| !kept.contains(&n))).collect();
        lost.push(open);
    }
    let all: BTreeSet<u64> = case.executed().into_iter().collect();
    assert_eq!(all.len() as u64, count, "each item was executed");
    println!("{count} items, {kills} kills: {redone} executed again");
    fs::remove_file(case.log()).expect("it is there");
    case.completes_of(count, MILLISECONDS, &["unordered"]);
    assert_eq!(case.executed(), [0; 0], "all was recorded");
}

#[test]
fn a_host_killed_again_and_again_does_no_answered_item_twice() {
    let (seconds, kills) = match std::env::var("FASTMAP_TEST_LONG") {
        Ok(_) => (60, 10),
        Err(_) => (6, 5),
    };
    killed(seconds, kills);
}

#[test]
fn a_finished_map_is_answered_from_its_file_alone_in_order_and_out_of_it() {
    let case = Case::new();
    case.completes(500, &[]);
    for wishes in [&[][..], &["unordered"]] {
        case.completes(500, wishes);
        assert_eq!(case.executed().len(), 500);
    }
    // Items behind the recorded ones are new.
    case.completes(700, &[]);
    assert_eq!(case.executed().len(), 700);
}

#[test]
fn failed_items_are_tried_again_and_no_others() {
    let case = Case::new();
    let fails = case.folder.path().join("log.fails");
    fs::write(&fails, "").expect("a file can be made");
    let report = case.run(200, 0, &[]);
    assert_eq!((report.answers, report.good), (200, 180), "{:#?}", report.errors);
    assert!(report.errors.iter().all(|error| error.kind == "Panic"), "{:#?}", report.errors);
    fs::remove_file(fails).expect("it is there");
    case.completes(200, &[]);
    assert_eq!(case.executed().len(), 220);
    assert!(case.executed()[200..].iter().all(|item| item % 10 == 3));
}

#[test]
fn items_that_were_tried_again_are_recorded_with_all_others_of_their_batches() {
    const ITEMS: u64 = 500;
    for wishes in [&["retries=1"][..], &["retries=1", "parts"], &["retries=1", "parts", "unordered"]] {
        let case = Case::new();
        fs::create_dir(case.folder.path().join("log.once")).expect("a folder can be made");
        case.completes(ITEMS, wishes);
        assert_eq!(case.executed().len() as u64, ITEMS + ITEMS / 10, "{wishes:?}");
        fs::remove_file(case.log()).expect("it is there");
        case.completes(ITEMS, wishes);
        assert_eq!(case.executed(), [0; 0], "all was recorded: {wishes:?}");
    }
}

#[test]
fn of_a_map_that_retries_only_what_failed_to_the_end_is_executed_again() {
    const ITEMS: u64 = 500;
    for wishes in [&["retries=2"][..], &["retries=2", "parts"]] {
        let case = Case::new();
        let fails = case.folder.path().join("log.fails");
        fs::write(&fails, "").expect("a file can be made");
        let report = case.run(ITEMS, 0, wishes);
        assert_eq!((report.answers as u64, report.good as u64), (ITEMS, ITEMS / 10 * 9), "{report:#?}");
        assert!(report.errors.iter().all(|error| error.text.contains("tried 3 times")), "{report:#?}");
        assert_eq!(case.executed().len() as u64, ITEMS + ITEMS / 10 * 2, "{wishes:?}");
        fs::remove_file(fails).expect("it is there");
        fs::remove_file(case.log()).expect("it is there");
        case.completes(ITEMS, wishes);
        let mut again = case.executed();
        again.sort_unstable();
        let failed: Vec<u64> = (0..ITEMS).filter(|item| item % 10 == 3).collect();
        assert_eq!(again, failed, "{wishes:?}");
    }
}

#[test]
fn pieces_of_a_batch_whose_worker_died_are_recorded_although_items_of_it_fail_again() {
    const ITEMS: u64 = 500;
    let case = Case::new();
    let fails = case.folder.path().join("log.fails");
    fs::write(&fails, "").expect("a file can be made");
    fs::create_dir(case.folder.path().join("log.dies")).expect("a folder can be made");
    let report = case.run(ITEMS, 0, &["retries=1"]);
    assert_eq!((report.answers as u64, report.good as u64), (ITEMS, ITEMS / 10 * 9), "{report:#?}");
    fs::remove_file(fails).expect("it is there");
    fs::remove_file(case.log()).expect("it is there");
    case.completes(ITEMS, &["retries=1"]);
    let mut again = case.executed();
    again.sort_unstable();
    let failed: Vec<u64> = (0..ITEMS).filter(|item| item % 10 == 3).collect();
    assert_eq!(again, failed);
}

#[test]
fn a_changed_input_is_an_error_that_names_the_items() {
    let case = Case::new();
    case.completes(300, &[]);
    for changed in [0, 123, 299] {
        let text = case.refuses(300, &[&format!("changed={changed}")]);
        let (_, rest) = text.split_once("the input has changed: items ").expect("it says so");
        let mut numbers =
            rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
        let (first, last) = (numbers.next().expect("a number"), numbers.next().expect("a number"));
        assert!((first..=last).contains(&changed), "{text}");
    }
    let text = case.refuses(299, &[]);
    assert!(text.contains("it ends after 299 items, and results of 300 are recorded"), "{text}");
    assert_eq!(case.executed().len(), 300, "nothing was executed");
    case.completes(300, &[]);
}

#[test]
fn a_changed_function_context_or_version_is_an_error() {
    let case = Case::new();
    case.completes(100, &[]);
    for (wish, part) in [("other-function", "function"), ("slower", "context"), ("version=2", "version")] {
        let text = case.refuses(100, &[wish]);
        assert!(text.contains(&format!("another {part}")), "{text}");
    }
    assert_eq!(case.executed().len(), 100, "nothing was executed");
}

#[test]
fn another_build_is_an_error_unless_its_version_is_said_to_be_the_same() {
    let mut case = Case::new();
    let mut build = fs::read(&case.program).expect("it can be read");
    // The head of the note with the build id; the id follows.
    let head = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let note = build.windows(head.len()).position(|bytes| bytes == head).expect("a build id");
    build[note + head.len()] ^= 1;
    let other = case.folder.path().join("host");
    write_program(&other, &build[..]);

    case.completes(100, &[]);
    let original = std::mem::replace(&mut case.program, other.clone());
    let text = case.refuses(100, &[]);
    assert!(text.contains("another version") && text.contains("checkpoint_version"), "{text}");

    fs::remove_file(case.file()).expect("it is there");
    case.program = original;
    case.completes(100, &["version=1"]);
    case.program = other;
    case.completes(100, &["version=1"]);
    assert_eq!(case.executed().len(), 200);
    assert!(case.refuses(100, &["version=2"]).contains("key 1"));
}

#[test]
fn foreign_files_are_refused_and_left_as_they_are() {
    let case = Case::new();
    for foreign in [&b"x"[..], b"#!/bin/sh\necho hello\n", &[0; 10_000], &[0xff; 10_000]] {
        fs::write(case.file(), foreign).expect("a file can be made");
        let text = case.refuses(10, &[]);
        assert!(text.contains("not a checkpoint"), "{text}");
        assert_eq!(fs::read(case.file()).expect("it is there"), foreign);
    }
    fs::remove_file(case.file()).expect("it is there");
    fs::create_dir(case.file()).expect("a folder can be made");
    assert!(case.refuses(10, &[]).contains("not a file"));
    assert_eq!(case.executed(), [0; 0]);
}

#[test]
fn an_empty_file_is_a_new_checkpoint_and_a_missing_folder_an_error() {
    let case = Case::new();
    fs::write(case.file(), "").expect("a file can be made");
    case.completes(10, &[]);
    case.completes(10, &[]);
    assert_eq!(case.executed().len(), 10);
    let left = fs::read_dir(case.folder.path()).expect("it is there").count();
    assert_eq!(left, 2, "the checkpoint and the log");

    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(["checkpoint", "/no/such/folder/file", "/dev/null", "10", "0"]);
    let report = Report::read(&Running::start(&mut command).finish().stdout);
    let told = &report.errors[0].text;
    assert!(told.contains("/no/such/folder/file") && told.contains("No such file"), "{told}");
}

#[test]
fn a_creation_that_was_broken_off_is_begun_anew() {
    let case = Case::new();
    fs::write(case.folder.path().join("checkpoint.new"), vec![0; 5000]).expect("a file can be made");
    case.completes(10, &[]);
    case.completes(10, &[]);
    assert_eq!(case.executed().len(), 10);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::new();
    case.completes(10, &[]);
    fs::set_permissions(case.file(), fs::Permissions::from_mode(0o444)).expect("it is ours");
    fs::set_permissions(case.folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let text = case.refuses(10, if nix::unistd::geteuid().is_root() { &["nobody"] } else { &[] });
    assert!(
        text.contains("can't be opened to read and write") && text.contains("ermission denied"),
        "{text}"
    );
}

#[test]
fn one_file_is_used_by_one_map_at_a_time() {
    let case = Case::new();
    let mut holder = Running::start(&mut case.command(5_000_000, 0, &[]));
    holder.line("first answer");
    assert!(case.refuses(100, &[]).contains("another process or map is using it"));
}

#[test]
fn a_full_disk_is_one_error_and_nothing_that_was_recorded_is_lost() {
    let case = Case::new();
    let report = case.run(40_000, 0, &["file-size=1000000"]);
    assert!(report.good < 40_000 && report.errors.len() == 1, "{report:#?}");
    let error = &report.errors[0];
    assert_eq!((&*error.kind, error.index), ("Checkpoint", None), "{error:?}");
    assert!(error.text.contains("can't be written") && error.text.contains("File too large"), "{error:?}");
    let before = case.executed().len();
    assert!(before >= report.good);
    case.completes(40_000, &[]);
    let redone = case.executed().len() - 40_000;
    println!("{before} executed before, {redone} again");
    assert!(redone < before, "nothing was kept");
}

#[test]
fn a_damaged_file_gives_an_error_or_the_right_results() {
    let case = Case::new();
    case.completes(2000, &[]);
    let sound = fs::read(case.file()).expect("it can be read");
    let (mut errors, mut random) = (0, 7_u64);
    let mut outcomes = BTreeMap::new();
    for trial in 0..30 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (random >> 33) as usize % sound.len();
        let mut bytes = sound.clone();
        match trial % 3 {
            0 => bytes.truncate(place),
            1 => bytes[place] ^= 0x55,
            _ => bytes[place..].iter_mut().take(4096).for_each(|byte| *byte = 0xa5),
        }
        fs::write(case.file(), bytes).expect("it can be written");
        let report = case.run(2000, 0, &[]);
        if report.good < 2000 {
            assert_eq!(
                (report.answers, &*report.errors[0].kind),
                (report.good + 1, "Checkpoint"),
                "{report:#?}"
            );
            errors += 1;
        }
        *outcomes.entry(report.good).or_insert(0) += 1;
    }
    println!("{errors} errors; good results: {outcomes:?}");
    assert!(errors > 0, "none of the damage was seen");
    fs::write(case.file(), sound).expect("it can be written");
    case.completes(2000, &[]);
}
