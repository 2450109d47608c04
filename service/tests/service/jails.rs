//! The service as strangers meet it: their programs in jails.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastmap_backends::ExitReason;
use fastmap_backends::cloud::{Answer, Bill, LogPage, PartOutcome, RunInfo};
use fastmap_test_programs::write_program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::results;
use crate::money::children;
use crate::server::{FASTMAP, Server, until};

#[test]
fn a_jailed_program_does_its_work_sees_no_files_and_leaves_nothing_running() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    // More than goes through the channel, too.
    let reply = client.batch(&run, 0, &["eone", "b100000", "r/etc/passwd"]);
    let answers = results(&reply, 3);
    assert_eq!((answers[0].as_slice(), answers[1].len()), (&b"one"[..], 100_000));
    assert!(answers[2].starts_with(b"refused"), "{:?}", String::from_utf8_lossy(&answers[2]));
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!(bill.balance, 1_000_000_000 - bill.run.spent);
    until("the end of the jails", || children(server.pid()).is_empty().then_some(()));
    server.audit();
}

#[test]
fn a_run_in_jails_pays_for_the_time_that_the_kernel_counts() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    // A thread of its own does the work, of which the thread that answers knows nothing.
    client.batch(&run, 0, &["h300"]);
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    // On a busy machine it gets less than the clock shows.
    assert!(info.cpu_ns > 10_000_000, "{info:?}");
    server.audit();
}

#[test]
fn a_jailed_program_that_aborts_is_told_as_one_that_is_not() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    let reply = client.batch(&run, 0, &["a"]);
    let answer = Answer::decode(&reply.body, 1).expect("an answer");
    let PartOutcome::Lost(loss) = &answer.parts[0].outcome else { panic!("{answer:?}") };
    assert_eq!(loss.death.cause, ExitReason::Signal(6), "{loss:?}");
    results(&client.batch(&run, 1, &["e"]), 1);
    server.audit();
}

/// As Slurm and some service managers stop a service: each of its processes gets the signal.
#[test]
fn a_jail_goes_on_when_all_processes_are_asked_to_stop() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 0, &["e"]), 1);
    let reply = std::thread::scope(|scope| {
        let answer = scope.spawn(|| client.batch(&run, 1, &["s1000"]));
        while !answer.is_finished() {
            for process in descendants(server.pid()) {
                // It may have ended meanwhile.
                let _sent = kill(Pid::from_raw(process), Signal::SIGTERM);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        answer.join().expect("an answer")
    });
    results(&reply, 1);
    server.audit();
}

/// The processes that this one has started, and theirs.
fn descendants(process: i32) -> Vec<i32> {
    let mut all = children(process);
    let mut next = 0;
    while let Some(process) = all.get(next) {
        all.extend(children(*process));
        next += 1;
    }
    all
}

/// A folder with this mode.
fn folder(mode: u32) -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(mode)).tempdir().expect("a folder")
}

/// As in a clone below root's home: no other user can look up the service's program, its data or its
/// temporary files.
#[test]
fn a_service_below_closed_folders_jails_programs() {
    let closed = folder(0o700);
    let program = closed.path().join("fastmap");
    write_program(&program, fs::File::open(FASTMAP).expect("it can be read"));
    let temporary = closed.path().join("temporary");
    fs::create_dir(&temporary).expect("room");
    let Some(server) = Server::start_jailed_as(&program, &[], &[("TMPDIR", temporary)]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    assert_eq!(results(&client.batch(&run, 0, &["eone"]), 1), [b"one"]);
    server.audit();
}

/// With what deploy/ leaves an agent of root's capabilities: nothing can be mounted, and programs are laid
/// out.
#[test]
fn a_service_that_may_mount_nothing_jails_programs_that_it_lays_out() {
    let temporary = folder(0o755);
    let closed = folder(0o700);
    let program = closed.path().join("fastmap");
    let script = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --inh-caps -all \\\n  --bounding-set \
         -all,+setuid,+setgid,+chown,+dac_override,+fowner,+kill {FASTMAP} \"$@\"\n"
    );
    write_program(&program, script.as_bytes());
    let Some(server) = Server::start_jailed_as(&program, &[], &[("TMPDIR", temporary.path().to_owned())])
    else {
        return;
    };
    let client = server.tenant("a", "1000");
    let run = client.run();
    assert_eq!(results(&client.batch(&run, 0, &["eone"]), 1), [b"one"]);
    server.audit();
}

#[test]
fn no_other_user_of_the_machine_reads_an_uploaded_program() {
    let temporary = folder(0o755);
    let Some(server) =
        Server::start_jailed_as(Path::new(FASTMAP), &[], &[("TMPDIR", temporary.path().to_owned())])
    else {
        return;
    };
    let client = server.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 0, &["e"]), 1);
    // Every place that a name leads to, and those that can be guessed.
    let script = "shopt -s dotglob nullglob; for at in \"$0\"/*/program \"$0\"/*/*/program \"$1\"/*/*; do \
                  head -c4 \"$at\"; done; find \"$0\" \"$1\" -type f -readable";
    let output = Command::new("bash")
        .args(["-c", script])
        .args([temporary.path(), server.data()])
        .uid(65_533)
        .gid(65_533)
        .current_dir("/")
        .output()
        .expect("a shell");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    results(&client.batch(&run, 1, &["e"]), 1);
}

/// The group of the service whose jail a process is in, in each of the trees.
fn groups(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let of_service = |path: &str| {
        let mut path = Path::new(path.trim_start_matches('/'));
        while !path.file_name()?.to_str()?.starts_with("fastmap-jails-") {
            path = path.parent()?;
        }
        Some(path.to_owned())
    };
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        Some(Path::new("/sys/fs/cgroup").join(names).join(of_service(path)?))
    });
    lines.collect()
}

#[test]
fn nothing_of_a_service_that_was_killed_is_left_when_the_next_one_has_started() {
    let temporary = folder(0o755);
    let names = || -> Vec<PathBuf> {
        fs::read_dir(temporary.path()).expect("it is ours").flatten().map(|entry| entry.path()).collect()
    };
    let variables = [("TMPDIR", temporary.path().to_owned())];
    let Some(mut server) = Server::start_jailed_as(Path::new(FASTMAP), &[], &variables) else { return };
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let mut left = Vec::new();
    for round in 0..4 {
        let run = client.open(&executable);
        results(&client.batch(&run, 0, &["e"]), 1);
        left.extend(children(server.pid()).into_iter().flat_map(groups));
        // Some are starting when it is killed.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let body = crate::client::to_json(&crate::client::open_run(&executable, "obey"));
                    let _cut = client.try_call("POST", "/runs", &body, &crate::client::Wrong::default());
                });
            }
            std::thread::sleep(Duration::from_millis(3 + 11 * round));
            server.kill();
        });
        server.restart();
    }
    // Its own, in which all that it makes is.
    assert_eq!(names().len(), 1, "{:?}", names());
    assert!(!left.is_empty());
    let there: Vec<&PathBuf> = left.iter().filter(|folder| folder.exists()).collect();
    assert!(there.is_empty(), "{there:?}");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.signal(nix::sys::signal::Signal::SIGINT);
    server.ended();
    assert_eq!(names(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_result_beyond_what_an_answer_may_have_fails_in_words_and_costs_nothing_of_the_rest() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    // More than was asked for is whole all the same, up to the service's limit.
    assert_eq!(results(&client.batch(&run, 0, &["b3000000"]), 1)[0].len(), 3_000_000);
    // 64 MiB: after another item the result goes back, and alone it fails.
    let reply = client.batch(&run, 1, &["eone", "b70000000", "etwo"]);
    let answer = Answer::decode(&reply.body, 3).expect("an answer");
    let told: Vec<_> = answer.parts.iter().map(|part| (part.offset, part.items)).collect();
    assert_eq!(told, [(0, 1), (1, 2)], "{answer:?}");
    assert!(matches!(answer.parts[1].outcome, PartOutcome::Returned), "{answer:?}");
    let reply = client.batch(&run, 2, &["b70000000"]);
    assert!(reply.body.len() < 10_000, "{}", reply.body.len());
    let answer = Answer::decode(&reply.body, 1).expect("an answer");
    let PartOutcome::Done(results) = &answer.parts[0].outcome else { panic!("{answer:?}") };
    let message = &results.failures[0].message;
    assert!(message.contains("70000004 bytes") && message.contains("may have 66977792"), "{message}");
    server.audit();
}

#[test]
fn what_a_jailed_program_logs_is_a_line_of_its_run() {
    let Some(server) = Server::start_jailed(&[]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 0, &["lINFO credits\nwere added"]), 1);
    let page: LogPage = client.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
    let [line] = &page.lines[..] else { panic!("{page:?}") };
    let (level, target) = (line.level.as_deref(), line.target.as_deref());
    assert_eq!((level, target), (Some("INFO"), Some("fastmap_service::cli::admin")));
    assert_eq!((line.worker.as_str(), line.text.as_str()), ("worker-1", "INFO credits\nwere added"));
}
