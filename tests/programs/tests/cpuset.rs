//! A control group that is given more cores while a program maps in it: all threads of host and workers get them.
//! Takes a right that root has as a rule: to make a control group with cores of its own; without it, or where this
//! machine has one core, the test says so and is over.

use std::fs;
use std::io;
use std::path::Path;

use fastmap_test_programs::{ControlGroup, LIMIT, Running, program, skipped, until};

/// A group of the cpuset controller that has core 0.
fn group() -> io::Result<ControlGroup> {
    let make = |parent: &str| -> io::Result<ControlGroup> {
        let parent = Path::new(parent);
        // Version 1 has no group without memory.
        let memory = fs::read_to_string(parent.join("cpuset.mems"));
        let group = ControlGroup::new(parent)?;
        group.set("cpuset.cpus", "0")?;
        memory.map_or(Ok(()), |memory| group.set("cpuset.mems", &memory))?;
        Ok(group)
    };
    make("/sys/fs/cgroup/cpuset").or_else(|_| make("/sys/fs/cgroup"))
}

/// The cores of each thread of the processes of a group.
fn cores(group: &Path) -> Vec<String> {
    let processes = fs::read_to_string(group.join("cgroup.procs")).expect("it is there");
    let threads = processes.lines().filter_map(|process| fs::read_dir(format!("/proc/{process}/task")).ok());
    let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).ok();
    let statuses = threads.flatten().flatten().filter_map(status);
    let cores = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(|line| line.trim().to_owned())
    };
    statuses.filter_map(cores).collect()
}

#[test]
fn all_threads_get_the_cores_by_which_their_control_group_grows() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skipped("this machine has one core");
    }
    let group = match group() {
        Ok(group) => group,
        Err(error) => return skipped(&format!("no control group can be made here ({error})")),
    };
    let mut command = program("sh");
    let script = format!("echo 0 >{}/cgroup.procs && exec \"$0\" sparse 5 10", group.path().display());
    command.args(["-c", &script, env!("CARGO_BIN_EXE_host")]).env("FASTMAP_LOCAL_PROCESSES", "3");
    let mut running = Running::start(&mut command);
    running.line("first answer");
    let before = cores(group.path());
    assert!(before.len() > 4 && before.iter().all(|cores| cores == "0"), "{before:?}");
    fs::write(group.path().join("cpuset.cpus"), "0-1").expect("this is root");
    // A worker is kept off a core for as long as it is woken.
    let mut seen = Vec::new();
    until("cores of all threads", LIMIT, || {
        seen = cores(group.path());
        seen.iter().all(|cores| cores == "0-1")
    });
    assert!(seen.len() > 4, "{seen:?}");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.finish();
}
