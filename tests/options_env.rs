//! Variables of the environment: what they say is used, what can't be used is an error, and a method goes before.
//! Each case runs this program again, with the variables set.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use fastmap::{Error, ErrorKind, ExecPolicy, Options, Sandbox, Verbosity};

/// The child: what it is started as says what it does with the variables that it was given.
#[test]
fn program() {
    let Some(case) = common::case() else { return };
    match case.as_str() {
        "init" => match fastmap::init(Options::new()) {
            Ok(_) => eprintln!("accepted"),
            Err(error) => tell(&error),
        },
        "methods first" => methods_first(),
        "map" => {
            let config = fastmap::init(Options::new()).unwrap();
            assert_eq!(common::values(config.fastmap(|n: u64| n * n, 0..4)), [0, 1, 4, 9]);
        }
        "global" => match fastmap::global_init(Options::new()) {
            Ok(()) => eprintln!("accepted"),
            Err(error) => tell(&error),
        },
        "no init" => {
            for error in fastmap::fastmap(|n: u64| n, 0..2).filter_map(Result::err) {
                tell(&error);
            }
        }
        "processes" => {
            let config = fastmap::init(common::options()).unwrap();
            let scratch = common::Scratch::new();
            let workers: HashSet<_> =
                common::values(config.fastmap(common::meet, vec![(scratch.path(), 3); 3]))
                    .into_iter()
                    .collect();
            let more = common::values(config.fastmap(|_: u64| Some(std::process::id()), 0..3000));
            eprintln!("{} {}", workers.len(), more.iter().all(|pid| workers.contains(pid)));
        }
        "timeout" => {
            let config = fastmap::init(common::options().local_processes(1)).unwrap();
            let sleep = |seconds: u64| std::thread::sleep(Duration::from_secs(seconds));
            config.fastmap(sleep, [0, 3600, 0]).for_each(|answer| match answer {
                Ok(()) => eprintln!("done"),
                Err(error) => tell(&error),
            });
        }
        "sandbox" => {
            let config = fastmap::init(Options::new().verbosity(Verbosity::Quiet)).unwrap();
            eprintln!("{:?}", common::values(config.fastmap(may_read, [()])));
        }
        "inline" => {
            let config = fastmap::init(common::options().local_processes(1)).unwrap();
            let pids = common::values(config.fastmap(|_: u64| std::process::id(), 0..3));
            eprintln!("{}", pids == [std::process::id(); 3]);
        }
        "secret" => {
            let config = fastmap::init(common::options().local_processes(1)).unwrap();
            eprintln!("{:?}", common::values(config.fastmap(sees_a_secret, [()])));
        }
        other => panic!("no case {other}"),
    }
}

/// To be mapped: whether a file can be read.
fn may_read((): ()) -> bool {
    std::fs::read("/etc/passwd").is_ok()
}

/// To be mapped: whether it finds a secret in its environment, and whether a program does that it starts.
fn sees_a_secret((): ()) -> (bool, bool) {
    let environment = std::process::Command::new("env").output().unwrap().stdout;
    let names_it = String::from_utf8_lossy(&environment).contains("FASTMAP_SECRET");
    (std::env::var_os("FASTMAP_SECRET").is_some(), names_it)
}

fn tell(error: &Error) {
    eprintln!("{:?} {:?}: {error}", error.kind(), error.index());
}

/// Each method is called, so that no variable is looked at.
fn methods_first() {
    let options = Options::new()
        .exec_policy(ExecPolicy::Local)
        .verbosity(Verbosity::Quiet)
        .local_processes(1)
        .read_ahead(1000)
        .sandbox(Sandbox::Off)
        .item_timeout(Duration::from_secs(3600))
        .max_credits(2)
        .confirm_charges(false)
        .inline(false);
    let config = fastmap::init(options).unwrap();
    let pids: HashSet<_> =
        common::values(config.fastmap(|_: u64| std::process::id(), 0..1000)).into_iter().collect();
    assert_eq!(pids.len(), 1);
    assert_eq!(common::values(config.fastmap(may_read, [()])), [true]);
}

/// What the child writes to stderr.
fn run(case: &str, variables: &[(&str, &OsStr)]) -> String {
    let mut child = common::child("program", case);
    child.envs(variables.iter().copied());
    common::stderr_of(child)
}

/// Name, a value that can't be used, and what the error says is allowed.
const BAD: [(&str, &str, &str); 22] = [
    ("FASTMAP_EXEC_POLICY", "remote", "local, cloud, adaptive"),
    ("FASTMAP_EXEC_POLICY", "local,cloud", "local, cloud, adaptive"),
    ("FASTMAP_VERBOSITY", "verbose", "quiet, normal, loud"),
    ("FASTMAP_VERBOSITY", "2", "quiet, normal, loud"),
    ("FASTMAP_LOCAL_PROCESSES", "0", "from 1"),
    ("FASTMAP_LOCAL_PROCESSES", "-1", "from 1"),
    ("FASTMAP_LOCAL_PROCESSES", "two", "from 1"),
    ("FASTMAP_READ_AHEAD", "64MB", "bytes"),
    ("FASTMAP_READ_AHEAD", "-1", "bytes"),
    ("FASTMAP_ITEM_TIMEOUT", "-0.5", "seconds"),
    ("FASTMAP_ITEM_TIMEOUT", "soon", "seconds"),
    ("FASTMAP_ITEM_TIMEOUT", "NaN", "seconds"),
    ("FASTMAP_SANDBOX", "on", "off, auto, require"),
    ("FASTMAP_SANDBOX", "off,require", "off, auto, require"),
    ("FASTMAP_INLINE", "yes", "true, false, 1, 0"),
    ("FASTMAP_INLINE", "2", "true, false, 1, 0"),
    ("FASTMAP_MAX_CREDITS", "0", "credits from 0.000001"),
    ("FASTMAP_MAX_CREDITS", "-1", "credits from 0.000001"),
    ("FASTMAP_MAX_CREDITS", "5 credits", "credits from 0.000001"),
    ("FASTMAP_MAX_CREDITS", "inf", "credits from 0.000001"),
    ("FASTMAP_CONFIRM_CHARGES", "yes", "true, false, 1, 0"),
    ("FASTMAP_CONFIRM_CHARGES", "2", "true, false, 1, 0"),
];

/// Of the form that a service gives; no service knows it.
const SECRET: (&str, &str) =
    ("FASTMAP_SECRET", "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr");
/// Nothing listens there.
const URL: (&str, &str) = ("FASTMAP_CLOUD_URL", "http://127.0.0.1:1");

#[test]
fn a_bad_value_is_an_error_that_names_the_variable_the_value_and_what_is_allowed() {
    for (name, value, allowed) in BAD {
        for case in ["init", "global"] {
            let told = run(case, &[(name, value.as_ref())]);
            assert!(told.starts_with(&format!("{:?} None: ", ErrorKind::Options)), "{name}={value}: {told}");
            assert!(told.contains(name) && told.contains(value) && told.contains(allowed), "{told}");
        }
    }
}

#[test]
fn inline_is_off_unless_it_is_said_in_any_case() {
    for (value, here) in [("", "false"), ("0", "false"), ("False", "false"), ("1", "true"), ("TRUE", "true")]
    {
        assert_eq!(run("inline", &[("FASTMAP_INLINE", value.as_ref())]).trim(), here, "{value:?}");
    }
}

#[test]
fn an_item_timeout_of_nothing_is_refused() {
    let told = run("init", &[("FASTMAP_ITEM_TIMEOUT", "0".as_ref())]);
    assert!(told.starts_with("Options None: "), "{told}");
    assert!(told.contains("FASTMAP_ITEM_TIMEOUT"), "it names the variable: {told}");
}

#[test]
fn a_value_that_is_no_text_is_refused() {
    let value = OsString::from_vec(b"lo\xFFcal".to_vec());
    for (name, ..) in BAD {
        let told = run("init", &[(name, &value)]);
        assert!(told.starts_with("Options None: ") && told.contains(name), "{name}: {told}");
    }
}

#[test]
fn without_init_a_bad_value_is_told_by_the_first_next() {
    let told = run("no init", &[("FASTMAP_LOCAL_PROCESSES", "none".as_ref())]);
    let errors: Vec<_> = told.lines().filter(|line| line.starts_with("Options None: ")).collect();
    assert_eq!(errors.len(), 1, "{told}");
    assert!(errors[0].contains("FASTMAP_LOCAL_PROCESSES") && errors[0].contains("none"), "{told}");
}

#[test]
fn a_method_goes_before_its_variable() {
    let bad: Vec<(&str, &OsStr)> = BAD.iter().map(|(name, value, _)| (*name, OsStr::new(*value))).collect();
    assert_eq!(run("methods first", &bad), "");
    let other = [
        ("FASTMAP_EXEC_POLICY", "cloud"),
        ("FASTMAP_VERBOSITY", "loud"),
        ("FASTMAP_LOCAL_PROCESSES", "4"),
        ("FASTMAP_READ_AHEAD", "1"),
        ("FASTMAP_ITEM_TIMEOUT", "0.000001"),
        ("FASTMAP_SANDBOX", "require"),
    ];
    assert_eq!(run("methods first", &other.map(|(name, value)| (name, OsStr::new(value)))), "");
}

#[test]
fn words_are_taken_in_any_case_and_an_empty_variable_is_none() {
    for policy in ["local", "LOCAL", "Local", "", " adaptive ", "Cloud"] {
        let told = run("init", &[("FASTMAP_EXEC_POLICY", policy.as_ref())]);
        assert!(told.ends_with("accepted\n"), "{policy:?}: {told}");
    }
    for (name, ..) in BAD {
        let told = run("init", &[(name, "".as_ref())]);
        assert!(told.ends_with("accepted\n") && !told.contains("warning"), "{name}: {told}");
    }
}

#[test]
fn the_verbosity_variable_is_used() {
    let lines = |verbosity: &str| {
        run("map", &[("FASTMAP_VERBOSITY", verbosity.as_ref()), ("FASTMAP_EXEC_POLICY", "local".as_ref())])
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines("quiet"), [""; 0]);
    assert_eq!(lines("NORMAL").len(), 1);
    assert_eq!(lines("").len(), 1, "the default is normal");
    assert!(lines("Loud").len() > 2);
}

#[test]
fn the_number_of_processes_is_used() {
    assert_eq!(run("processes", &[("FASTMAP_LOCAL_PROCESSES", "3".as_ref())]), "3 true\n");
}

#[test]
fn the_item_timeout_is_used() {
    let told = run("timeout", &[("FASTMAP_ITEM_TIMEOUT", "0.3".as_ref())]);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert_eq!((lines[0], lines[2]), ("done", "done"), "{told}");
    assert!(lines[1].starts_with("Timeout Some(1): item 1: "), "{told}");
}

#[test]
fn the_sandbox_variable_is_used_and_auto_confines_when_a_batch_may_leave_this_machine() {
    let ends = |variables: &[(&str, &str)]| {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, OsStr::new(*value))).collect();
        run("sandbox", &variables).lines().last().map(str::to_owned)
    };
    let (open, confined) = (Some("[true]".to_owned()), Some("[false]".to_owned()));
    assert_eq!(ends(&[]), open);
    assert_eq!(ends(&[("FASTMAP_SANDBOX", "Require")]), confined);
    let with = |more: (&'static str, &'static str)| ends(&[SECRET, URL, more]);
    assert_eq!(ends(&[SECRET, URL]), confined);
    assert_eq!(with(("FASTMAP_SANDBOX", "auto")), confined);
    assert_eq!(with(("FASTMAP_SANDBOX", "off")), open);
    assert_eq!(with(("FASTMAP_EXEC_POLICY", "local")), open);
}

#[test]
fn a_secret_needs_a_service_unless_the_policy_is_local() {
    let secret = (SECRET.0, OsStr::new(SECRET.1));
    let told = run("init", &[secret]);
    assert!(told.starts_with("Options None: ") && told.contains("FASTMAP_CLOUD_URL"), "{told}");
    assert!(!told.contains(SECRET.1), "{told}");
    assert_eq!(run("init", &[secret, ("FASTMAP_EXEC_POLICY", "local".as_ref())]), "accepted\n");
}

#[test]
fn without_a_secret_every_policy_runs_locally_and_one_line_says_so() {
    let lines = |policy: &str, verbosity: &str| {
        let variables = [("FASTMAP_EXEC_POLICY", policy.as_ref()), ("FASTMAP_VERBOSITY", verbosity.as_ref())];
        let told = run("map", &variables);
        told.lines().filter(|line| line.contains("no secret is set")).map(str::to_owned).collect::<Vec<_>>()
    };
    for policy in ["", "adaptive", "cloud"] {
        let told = lines(policy, "normal");
        assert!(told.len() == 1 && told[0].contains("running locally"), "{policy}: {told:?}");
    }
    assert_eq!(lines("local", "loud"), [""; 0]);
    assert_eq!(lines("adaptive", "quiet"), [""; 0], "it is no warning");
    assert_eq!(lines("cloud", "quiet").len(), 1, "another place than was asked for");
}

#[test]
fn no_worker_and_nothing_that_it_starts_sees_the_secret() {
    assert_eq!(run("secret", &[("FASTMAP_SECRET", "s3cret".as_ref())]), "[(false, false)]\n");
}
