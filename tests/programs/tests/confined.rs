//! The function's contract, enforced: what it forbids is refused by the kernel, and the user is told which call it was,
//! of which item, and how to allow it.

use std::process::Command;

use fastmap_test_programs::{Ended, LIMIT, Report, Running, is_alive, program, until, workers};
use nix::sys::signal::Signal;

fn host(arguments: &[&str]) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(arguments).env("FASTMAP_SANDBOX", "require").env_remove("RUST_BACKTRACE");
    command
}

fn run(command: &mut Command) -> (Report, Ended) {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    (Report::read(&ended.stdout), ended)
}

fn warnings(ended: &Ended) -> Vec<&str> {
    ended.stderr.lines().filter(|line| line.starts_with("fastmap: warning: ")).collect()
}

/// What allows it, as a method and as a variable.
const WAYS_OUT: [&str; 2] = ["Options::sandbox(Sandbox::Off)", "FASTMAP_SANDBOX=off"];

/// Each tenth of a hundred items does what it must not: ten errors of that kind. They say those words, or from the
/// fourth on that they are the same as one before.
fn refused(breach: &str, kind: &str, words: &[&str]) {
    let (report, ended) = run(&mut host(&["breach", breach, "1"]));
    assert_eq!((report.answers, report.good, report.errors.len()), (100, 90, 10), "{breach}: {report:#?}");
    for (place, error) in report.errors.iter().enumerate() {
        let index = place * 10 + 5;
        assert_eq!((error.index, &*error.kind), (Some(index), kind), "{breach}: {error:?}");
        assert!(error.text.contains(&format!("item {index}")), "{breach}: {error:?}");
        let says_all = words.iter().chain(&WAYS_OUT).all(|word| error.text.contains(word));
        let refers = place >= 3 && error.text.contains("(the same as item ");
        assert!(says_all || refers, "{breach}: {words:?}: {error:?}");
    }
    assert_eq!(warnings(&ended), [""; 0], "the errors say it all");
}

#[test]
fn an_item_that_fails_of_a_refused_call_names_the_call_the_item_and_the_option() {
    refused("read", "Panic", &["openat(\"/etc/passwd\")", "a file: "]);
    refused("write", "Panic", &["openat(", "fastmap-breach-"]);
    refused("connect", "Panic", &["refused socket"]);
    refused("start", "Panic", &["refused clone"]);
    refused("kill", "Panic", &["refused kill"]);
}

#[test]
fn a_call_refused_to_a_thread_of_an_item_is_named_as_well() {
    refused("read-in-thread", "Panic", &["openat(\"/etc/passwd\")"]);
}

#[test]
fn an_item_that_crashes_of_a_refused_call_names_it_although_its_worker_is_dead() {
    refused("read-or-abort", "Crash", &["openat(\"/etc/passwd\")", "SIGABRT"]);
}

#[test]
fn an_item_that_goes_on_without_is_answered_and_each_map_warns() {
    let (report, ended) = run(&mut host(&["breach", "try-all", "2"]));
    assert_eq!((report.answers, report.good), (100, 100), "{report:#?}");
    let warnings = warnings(&ended);
    for map in 1..=2 {
        let label = format!("warning: map {map}:");
        let of_map: Vec<_> = warnings.iter().filter(|line| line.contains(&label)).collect();
        assert!(!of_map.is_empty() && of_map.len() <= 4, "{warnings:#?}");
        let warning = of_map[0];
        let words = ["openat(\"/etc/passwd\")", "socket", "fastmap-breach-", "clone", " item ", "5,"];
        for word in words.iter().chain(&WAYS_OUT) {
            assert!(warning.contains(word), "{word}: {warning}");
        }
    }
    assert!(
        std::path::Path::new("/var/lib")
            .read_dir()
            .expect("it is there")
            .flatten()
            .all(|entry| { !entry.file_name().to_string_lossy().starts_with("fastmap-breach-") }),
        "no item has written"
    );
}

#[test]
fn an_item_that_answers_an_error_of_its_own_is_told_with_the_call_that_may_be_why() {
    let (report, ended) = run(&mut host(&["own-errors"]));
    assert_eq!(report.answers, 10, "{report:#?}");
    let warnings = warnings(&ended);
    let own: Vec<_> =
        warnings.iter().filter(|line| line.contains("item 7 answered an error of its own")).collect();
    assert_eq!(own.len(), 1, "{warnings:#?}");
    for word in ["openat(\"/etc/hosts\")", "fastmap-breach-"].iter().chain(&WAYS_OUT) {
        assert!(own[0].contains(word), "{word}: {warnings:#?}");
    }
    // The harmless one was told before, and once.
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
}

#[test]
fn a_refused_call_is_told_while_its_item_still_runs() {
    let (report, ended) = run(host(&["breach", "wait", "1"]).env("FASTMAP_LOCAL_PROCESSES", "10"));
    assert_eq!((report.answers, report.good), (100, 100), "{report:#?}");
    let warnings = warnings(&ended);
    let early: Vec<_> = warnings.iter().filter(|line| line.contains("still runs after 3 s")).collect();
    assert!(!early.is_empty() && early.len() <= 3, "{warnings:#?}");
    for word in ["openat(\"/var/lib/fastmap-breach\")", " to item "].iter().chain(&WAYS_OUT) {
        assert!(early[0].contains(word), "{word}: {warnings:#?}");
    }
}

#[test]
fn a_function_can_tell_its_stack() {
    for sandbox in ["require", "off"] {
        for limit in ["", "ulimit -s 16384;", "ulimit -s unlimited;"] {
            let mut command = program("/bin/sh");
            let script = format!("{limit} exec \"$0\" stack");
            command.args(["-c", &script, env!("CARGO_BIN_EXE_host")]).env("FASTMAP_SANDBOX", sandbox);
            let ended = Running::start(&mut command).finish();
            assert!(ended.status.success() && ended.stdout.len() == 4, "{ended:#?}");
            for line in &ended.stdout {
                let words: Vec<&str> = line.split(' ').collect();
                let ["stack", "0", size, "true"] = words[..] else { panic!("{sandbox} {limit}: {line}") };
                let size: u64 = size.parse().expect("a number");
                let least = if limit.is_empty() { 1 << 20 } else { 16 << 20 };
                assert!(size >= least - (1 << 16), "{sandbox} {limit}: {line}");
            }
        }
    }
}

#[test]
fn what_libraries_look_up_in_passing_is_no_reason_to_warn() {
    let (report, ended) = run(&mut host(&["breach", "look-up", "1"]));
    assert_eq!((report.answers, report.good), (100, 100), "{report:#?}");
    assert_eq!(warnings(&ended), [""; 0]);
}

#[test]
fn an_init_is_under_the_same_contract() {
    let (report, _) = run(&mut host(&["breach-in-init", "read"]));
    assert_eq!((report.answers, report.good), (1, 0), "{report:#?}");
    let error = &report.errors[0];
    for word in ["init panicked", "openat(\"/etc/passwd\")", WAYS_OUT[0], WAYS_OUT[1]] {
        assert!(error.text.contains(word), "{word}: {error:?}");
    }
    let (report, ended) = run(&mut host(&["breach-in-init", "try-all"]));
    assert_eq!((report.answers, report.good), (100, 100), "{report:#?}");
    let warnings = warnings(&ended);
    assert!(
        warnings.len() == 1 && warnings[0].contains("to the preparation of the function"),
        "{warnings:#?}"
    );
}

#[test]
fn nothing_is_refused_unless_it_is_asked_for() {
    for sandbox in ["off", "auto", ""] {
        let command = &mut host(&["breach", "read", "1"]);
        let (report, ended) = run(command.env("FASTMAP_SANDBOX", sandbox));
        assert_eq!((report.answers, report.good), (100, 100), "{sandbox}: {report:#?}");
        assert_eq!(warnings(&ended), [""; 0]);
    }
}

/// What the layers are called in messages.
const LAYERS: [(&str, &str); 2] = [("landlock", "Landlock"), ("seccomp", "seccomp")];

#[test]
fn require_on_a_kernel_that_lacks_a_layer_is_an_error_that_names_it() {
    for (layer, name) in LAYERS {
        let ended = Running::start(&mut host(&["kernel-without", layer])).finish();
        let told = ended.stdout.first().expect("a line").clone();
        assert!(told.starts_with("init Options ") && told.contains(name), "{told}");
        assert!(told.contains("FASTMAP_SANDBOX"), "it says what else there is: {told}");
    }
}

#[test]
fn auto_on_a_kernel_that_lacks_a_layer_goes_on_with_one_warning_that_names_it() {
    for (layer, name) in LAYERS {
        let command = &mut host(&["kernel-without", layer]);
        command.env("FASTMAP_SANDBOX", "auto").env("FASTMAP_EXEC_POLICY", "adaptive");
        command
            .env("FASTMAP_SECRET", "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr")
            .env("FASTMAP_CLOUD_URL", "http://127.0.0.1:1");
        let (report, ended) = run(command);
        assert_eq!((report.answers, report.good), (100, 100), "{report:#?}");
        let told = warnings(&ended).iter().filter(|line| line.contains("not fully confined")).count();
        assert!(told == 1 && ended.stderr.contains(name), "{}", ended.stderr);
    }
}

#[test]
fn crashes_and_endless_items_of_confined_workers_are_found_as_ever() {
    let one = |command: &mut Command| {
        let (report, _) = run(command);
        assert_eq!((report.answers, report.good), (1000, 999), "{:#?}", report.errors);
        assert_eq!(report.errors[0].index, Some(500));
        format!("{} {}", report.errors[0].kind, report.errors[0].text)
    };
    for (fault, words) in [
        ("segfault", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("overflow", "has overflowed its stack"),
        ("kill", "SIGKILL"),
        ("exit-3", "exit(3)"),
        ("panic", "as asked"),
    ] {
        let told = one(&mut host(&["faults", fault, "1000", "1000", "500"]));
        assert!(told.contains(words) && !told.contains("sandbox"), "{fault}: {told}");
    }
    let told = one(host(&["faults", "spin", "1000", "1000", "500"]).env("FASTMAP_ITEM_TIMEOUT", "0.5"));
    assert!(told.starts_with("Timeout"), "{told}");
}

#[test]
fn confined_workers_end_with_their_host() {
    let mut running = Running::start(&mut host(&["slow", "1000000", "2"]));
    running.line("first answer");
    let all = workers(running.pid());
    assert!(!all.is_empty());
    running.signal(Signal::SIGKILL);
    until("the workers are gone", LIMIT, || !all.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn large_items_and_log_records_pass_as_ever() {
    let (report, _) = run(&mut host(&["stream", "20"]));
    assert_eq!((report.answers, report.good), (20, 20), "{:#?}", report.errors);
    let (report, ended) = run(&mut host(&["logs"]));
    assert_eq!(report.answers, report.good, "{:#?}", report.errors);
    assert!(ended.stdout.iter().any(|line| line.starts_with("log INFO")), "{ended:#?}");
}
