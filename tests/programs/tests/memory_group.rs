//! A worker that the kernel kills because a control group has no more memory is told from one that somebody killed.
//! Takes a right that root has as a rule: to make a control group; without it the test says so and is over.

use std::fs;
use std::io;
use std::path::PathBuf;

use fastmap_test_programs::{ControlGroup, Report, Running, program, skipped};

const LIMIT: u64 = 128 << 20;

/// A group whose processes may have so much memory together.
fn group() -> io::Result<ControlGroup> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let path = |name: &str| {
        let line = own.lines().find(|line| line.split(':').nth(1) == Some(name));
        line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or("/").trim_start_matches('/').to_owned()
    };
    let make = |parent: PathBuf, limits: &[(&str, &str)]| -> io::Result<ControlGroup> {
        let group = ControlGroup::new(&parent)?;
        limits.iter().try_for_each(|(file, value)| group.set(file, value))?;
        Ok(group)
    };
    let limit = LIMIT.to_string();
    let first = PathBuf::from("/sys/fs/cgroup/memory").join(path("memory"));
    make(first, &[("memory.limit_in_bytes", &limit), ("memory.swappiness", "0")]).or_else(|_| {
        let own = PathBuf::from("/sys/fs/cgroup").join(path(""));
        make(own, &[("memory.max", &limit), ("memory.swap.max", "0")])
    })
}

#[test]
fn a_worker_that_the_kernel_ends_for_want_of_memory_is_named_so_and_a_killed_one_is_not() {
    let group = match group() {
        Ok(group) => group,
        Err(error) => return skipped(&format!("no control group can be made here ({error})")),
    };
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    // One at a time, or nobody could tell which of two deaths the kernel has counted.
    command.arg("greedy").arg(group.path()).env("FASTMAP_LOCAL_PROCESSES", "1");
    let ended = Running::start(&mut command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (20, 18), "{ended:#?}");
    let [killed, starved] = &report.errors[..] else { panic!("{report:#?}") };
    assert_eq!((&*killed.kind, killed.index), ("Crash", Some(3)), "{killed:?}");
    assert_eq!((&*starved.kind, starved.index), ("OutOfMemory", Some(7)), "{starved:?}");
    assert!(starved.text.contains("by the kernel") && starved.text.contains("128 MiB"), "{starved:?}");
}
