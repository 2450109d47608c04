//! What a program gives under CLOUD: the same as under LOCAL, byte for byte, and what its workers say on the way.

use std::process::Command;

use fastmap_test_cloud::{Account, Service};
use fastmap_test_jails::machine::jail;
use fastmap_test_programs::{Ended, LIMIT, Report, Running, program, until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");

const OUTPUT: &str = "OUTPUT";

fn run(command: &mut Command) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{command:?}: {ended:#?}");
    ended
}

/// Lines of results, without the times that they took and the worker that was lost.
fn results(ended: &Ended) -> Vec<String> {
    let kept = ended.stdout.iter().filter(|line| !line.contains("times as fast"));
    let plain = |line: &String| {
        let line = line.split(": worker ").next().unwrap_or(line);
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_time = |at: usize| words.get(at + 1) == Some(&"s") && words[at].parse::<f64>().is_ok();
        let untimed = words.iter().enumerate().map(|(at, word)| if is_time(at) { "TIME" } else { word });
        untimed.collect::<Vec<_>>().join(" ")
    };
    kept.map(plain).collect()
}

#[test]
fn each_example_gives_the_same_bytes_here_and_in_the_cloud() {
    // As a newcomer has it: in jails where this machine makes them.
    let mut serve = Command::new(SERVICE);
    let mut service = Running::start(serve.args(["serve", "--dev", "--log", "warn", "--workers", "2"]));
    let secret = service.line("export FASTMAP_SECRET=");
    let account = Account { secret, url: service.line("export FASTMAP_CLOUD_URL=") };
    let folder = TempDir::new().expect("a folder");
    // OUTPUT is where the picture goes.
    let examples: [(&str, &[&str]); 4] = [
        (env!("CARGO_BIN_EXE_cloud-quickstart"), &["--below", "200000"]),
        (env!("CARGO_BIN_EXE_cloud-bootstrap"), &["--resamples", "200", OUTPUT]),
        (
            env!("CARGO_BIN_EXE_cloud-mandelbrot"),
            &["--skip-map", "--width", "160", "--height", "100", "--steps", "300", OUTPUT],
        ),
        (env!("CARGO_BIN_EXE_cloud-thumbnails"), &["--output", OUTPUT]),
    ];
    for (path, words) in examples {
        let result = |mut command: Command, name: &str| {
            let picture = folder.path().join(name);
            let output = picture.to_str().expect("a path");
            command.args(words.iter().map(|word| if *word == OUTPUT { output } else { word }));
            let ended = run(command.env("TMPDIR", folder.path()));
            let lines: Vec<_> = results(&ended).iter().map(|line| line.replace(output, OUTPUT)).collect();
            (lines, std::fs::read(&picture).ok(), ended)
        };
        let name = path.rsplit('/').next().expect("a name");
        let (lines, picture, _) = result(program(path), &format!("{name}-here.png"));
        let (far_lines, far_picture, ended) =
            result(account.program(path, &[]), &format!("{name}-there.png"));
        assert!(ended.stderr.contains("/s, cloud, "), "it ran there: {}", ended.stderr);
        assert!(lines.len() > 1, "{lines:?}");
        assert_eq!(lines, far_lines, "{path}");
        assert_eq!(picture.is_some(), words.contains(&OUTPUT));
        assert!(picture == far_picture, "{path}: the same picture");
    }
    // Its temporary data goes with it.
    service.signal(Signal::SIGTERM);
    assert!(service.finish().status.success());
}

#[test]
fn time_zone_and_language_are_those_of_the_host_wherever_an_item_runs() {
    // Workers that nothing confines have the service's own.
    if jail().is_none() {
        return;
    }
    let mut serve = Command::new(SERVICE);
    serve.args(["serve", "--dev", "--log", "warn", "--workers", "2"]);
    let mut service = Running::start(serve.env("TZ", "America/New_York").env("LANG", "C"));
    let secret = service.line("export FASTMAP_SECRET=");
    let account = Account { secret, url: service.line("export FASTMAP_CLOUD_URL=") };
    for (zone, wanted) in [("Asia/Tokyo", "+09:00"), ("Europe/Berlin", "+01:00")] {
        for policy in ["local", "cloud", "adaptive"] {
            let mut command = account.program(HOST, &["surroundings"]);
            command.env("FASTMAP_EXEC_POLICY", policy).env("FASTMAP_SANDBOX", "require");
            let ended = run(command.env("TZ", zone).env("LANG", "C.UTF-8"));
            let said: Vec<_> = ended.stdout.iter().filter(|line| line.starts_with('<')).collect();
            assert_eq!(said.len(), 1, "{policy}, {zone}: {said:?}");
            assert!(said[0].contains(wanted) && said[0].contains("C.UTF-8"), "{policy}, {zone}: {said:?}");
        }
    }
    // And the frames of a panic are there where the host's environment asks for them.
    for (policy, backtrace) in [("local", "1"), ("cloud", "1"), ("cloud", "0")] {
        let mut command = account.program(HOST, &["panics"]);
        let ended = run(command.env("FASTMAP_EXEC_POLICY", policy).env("RUST_BACKTRACE", backtrace));
        let report = Report::read(&ended.stdout);
        let error = &report.errors[0].text;
        assert!(error.contains("host.rs:") && error.contains("the len is 0"), "{policy}: {error}");
        let framed = error.contains("a_place_in_the_function") && error.contains("cloud_host::panics");
        assert_eq!(framed, backtrace == "1", "{policy}: {error}");
        assert!(!error.contains("fastmap::") && !error.contains("begin_unwind"), "{policy}: {error}");
    }
    service.signal(Signal::SIGTERM);
    assert!(service.finish().status.success());
}

#[test]
fn what_workers_print_comes_to_the_host_and_the_label_to_the_service() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let ended = run(&mut account.program(HOST, &["prints", "50"]));
    assert_eq!(Report::read(&ended.stdout).good, 50);
    let mut out: Vec<_> = ended.stdout.iter().filter(|line| line.starts_with("<out ")).cloned().collect();
    let mut err: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("<err ")).collect();
    let mut all: Vec<_> = (0..50).map(|n| format!("<out {n}>")).collect();
    out.sort();
    all.sort();
    assert_eq!(out, all);
    let mut all: Vec<_> = (0..50).map(|n| format!("<err {n}>")).collect();
    err.sort_unstable();
    all.sort();
    assert_eq!(err, all);
    run(&mut account.program(HOST, &["squares", "10", "2"]));
    let labels: Vec<_> = service.runs("a").iter().map(|run| run["label"].clone()).collect();
    assert_eq!(labels, ["squares 1".into(), "squares 0".into(), serde_json::Value::Null]);
}

#[test]
fn an_item_that_ends_its_worker_there_costs_itself_alone() {
    let service = Service::start(SERVICE, &[]);
    let ended = run(&mut service.account("a", "10").program(HOST, &["aborts", "100", "70"]));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (100, 99), "{report:#?}");
    let error = &report.errors[0];
    assert_eq!((&*error.kind, error.index), ("Crash", Some(70)));
    assert!(error.text.contains("SIGABRT") && error.text.contains("the last words"), "{error:?}");
}

#[test]
fn a_run_is_over_at_the_service_when_its_map_is_however_that_ended() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    run(&mut account.program(HOST, &["squares", "1000"]));
    assert_eq!(service.runs("a")[0]["state"], "done");
    // What the host has no time to say, its lease says.
    let mut host = Running::start(&mut account.program(HOST, &["sleep", "1000000", "10"]));
    host.line("first answer");
    // As by Ctrl-C, whose signal is ignored in whatever a shell has started in the background.
    host.signal(Signal::SIGTERM);
    host.finish();
    until("the end of the run", LIMIT, || service.runs("a")[0]["state"] != "open");
}
