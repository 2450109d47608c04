//! What a program gives under CLOUD: the same as under LOCAL, byte for byte, and what its workers say on the way.

use std::process::Command;

use fastmap_test_cloud::{Account, Service};
use fastmap_test_programs::{Ended, LIMIT, Report, Running, program, until};
use tempfile::TempDir;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");

fn run(command: &mut Command) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{command:?}: {ended:#?}");
    ended
}

/// Lines of results: those without times and process numbers.
fn results(ended: &Ended) -> Vec<&str> {
    let told = |line: &&str| {
        ["  map  ", "  fastmap  ", "Equal block by block"].iter().all(|begin| !line.starts_with(begin))
    };
    // "23 fine, 1 lost, in 0.52 s", and the error behind the name of what was lost.
    let cut =
        |line| str::split(line, ", in ").next().unwrap_or(line).split(": worker ").next().unwrap_or(line);
    ended.stdout.iter().map(String::as_str).filter(told).map(cut).collect()
}

#[test]
fn each_example_gives_the_same_bytes_here_and_in_the_cloud() {
    // As a newcomer has it: in jails where this machine makes them.
    let mut serve = Command::new(SERVICE);
    let mut service = Running::start(serve.args(["serve", "--dev", "--log", "warn", "--workers", "2"]));
    let secret = service.line("export FASTMAP_SECRET=");
    let account = Account { secret, url: service.line("export FASTMAP_CLOUD_URL=") };
    let folder = TempDir::new().expect("a folder");
    let here = folder.path().join("here.png");
    let there = folder.path().join("there.png");
    let (here, there) = (here.to_str().expect("a path"), there.to_str().expect("a path"));
    let quickstart = |_| vec!["--below".to_owned(), "200000".to_owned()];
    let bootstrap = |_| vec!["--resamples".to_owned(), "200".to_owned()];
    let mandelbrot = |output: &str| {
        ["--skip-map", "--width", "160", "--height", "100", "--steps", "300", output]
            .map(str::to_owned)
            .to_vec()
    };
    let thumbnails = |output: &str| vec!["--output".to_owned(), output.to_owned()];
    let examples: [(&str, &dyn Fn(&str) -> Vec<String>); 4] = [
        (env!("CARGO_BIN_EXE_cloud-quickstart"), &quickstart),
        (env!("CARGO_BIN_EXE_cloud-bootstrap"), &bootstrap),
        (env!("CARGO_BIN_EXE_cloud-mandelbrot"), &mandelbrot),
        (env!("CARGO_BIN_EXE_cloud-thumbnails"), &thumbnails),
    ];
    for (path, arguments) in examples {
        let words = |output| arguments(output);
        let local = run(program(path).args(words(here)).env("TMPDIR", folder.path()));
        let mut command = account.program(path, &[]);
        let cloud = run(command.args(words(there)).env("TMPDIR", folder.path()));
        let named = |lines: Vec<&str>, output: &str| -> Vec<String> {
            lines.iter().map(|line| line.replace(output, "OUTPUT")).collect()
        };
        let (before, after) = (named(results(&local), here), named(results(&cloud), there));
        assert!(before.len() > 1, "{local:#?}");
        assert_eq!(before, after, "{path}");
        assert!(cloud.stderr.contains("/s, cloud, "), "it ran there: {}", cloud.stderr);
        if words("").contains(&String::new()) {
            let read = |path| std::fs::read(path).expect("a picture");
            assert!(read(here) == read(there), "{path}: the same picture");
        }
    }
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
    (out.sort(), all.sort());
    assert_eq!(out, all);
    let mut all: Vec<_> = (0..50).map(|n| format!("<err {n}>")).collect();
    (err.sort_unstable(), all.sort());
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
    host.signal(nix::sys::signal::Signal::SIGINT);
    host.finish();
    until("the end of the run", LIMIT, || service.runs("a")[0]["state"] != "open");
}
