//! A worker that the kernel kills because a control group has no more memory is told from one that somebody killed.
//! Takes a right that root has as a rule: to make a control group; without it the test says so and is over.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use fastmap_test_programs::{Report, Running, program, skipped, until};

const LIMIT: u64 = 128 << 20;

/// A group of the memory controller with a limit; removed at the end.
struct Group(PathBuf);

impl Group {
    fn new() -> io::Result<Group> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path = |name: &str| {
            let line = own.lines().find(|line| line.split(':').nth(1) == Some(name));
            line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or("/").trim_start_matches('/').to_owned()
        };
        let name = format!("fastmap-test-{}", std::process::id());
        let make = |parent: PathBuf, limits: &[(&str, &str)]| -> io::Result<Group> {
            let group = Group(parent.join(&name));
            fs::create_dir(&group.0)?;
            for (file, value) in limits {
                fs::write(group.0.join(file), value)?;
            }
            Ok(group)
        };
        let limit = LIMIT.to_string();
        let first = PathBuf::from("/sys/fs/cgroup/memory").join(path("memory"));
        make(first, &[("memory.limit_in_bytes", &limit), ("memory.swappiness", "0")]).or_else(|_| {
            make(
                PathBuf::from("/sys/fs/cgroup").join(path("")),
                &[("memory.max", &limit), ("memory.swap.max", "0")],
            )
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        until("the group is empty", Duration::from_secs(10), || {
            fs::remove_dir(&self.0).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
        });
    }
}

#[test]
fn a_worker_that_the_kernel_ends_for_want_of_memory_is_named_so_and_a_killed_one_is_not() {
    let group = match Group::new() {
        Ok(group) => group,
        Err(error) => return skipped(&format!("no control group can be made here ({error})")),
    };
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    // One at a time, or nobody could tell which of two deaths the kernel has counted.
    command.arg("greedy").arg(&group.0).env("FASTMAP_LOCAL_PROCESSES", "1");
    let ended = Running::start(&mut command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (20, 18), "{ended:#?}");
    let [killed, starved] = &report.errors[..] else { panic!("{report:#?}") };
    assert_eq!((&*killed.kind, killed.index), ("Crash", Some(3)), "{killed:?}");
    assert_eq!((&*starved.kind, starved.index), ("OutOfMemory", Some(7)), "{starved:?}");
    assert!(starved.text.contains("by the kernel") && starved.text.contains("128 MiB"), "{starved:?}");
}
