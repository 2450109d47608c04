//! What the test programs share: quiet local configurations, events between processes, and child programs.
//! Declared by each of them with `mod common;`; calls the public interface of the library only.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use fastmap::{Error, ExecPolicy, FastmapConfig, Options, Verbosity};

/// What is waited for in a test must have come by then, on a slow machine too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The variable that tells a test that it was started by another one, and as what.
const CASE: &str = "FASTMAP_TEST_CASE";

/// Local, quiet, nothing else set.
pub(crate) fn options() -> Options {
    Options::new().exec_policy(ExecPolicy::Local).verbosity(Verbosity::Quiet)
}

/// A quiet local configuration of so many workers.
pub(crate) fn config(processes: usize) -> FastmapConfig {
    fastmap::init(options().local_processes(processes)).expect("local options can be used")
}

/// All results; the first error fails the test.
pub(crate) fn values<R>(map: impl Iterator<Item = Result<R, Error>>) -> Vec<R> {
    map.map(|result| result.expect("each item has a result")).collect()
}

/// Results, and for each failed item its index instead.
pub(crate) fn answers<R>(map: impl Iterator<Item = Result<R, Error>>) -> Vec<Result<R, Option<usize>>> {
    map.map(|result| result.map_err(|error| error.index())).collect()
}

/// Looks until `event` is true, up to the deadline.
pub(crate) fn wait_until(mut event: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        if event() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Runs a test that could hang; fails it at the deadline. What goes wrong inside fails it as well.
pub(crate) fn within_deadline(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let thread = thread::spawn(move || {
        test();
        let _nobody_waits = done.send(());
    });
    match ended.recv_timeout(DEADLINE) {
        Ok(()) => {}
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it ended without a word"));
        }
        Err(RecvTimeoutError::Timeout) => panic!("still not over after {DEADLINE:?}"),
    }
}

/// A folder for files by which processes tell each other what has happened; removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fastmap-test-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary folder can be written");
        Scratch(path)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_over = fs::remove_dir_all(&self.0);
    }
}

/// To be mapped: waits until so many processes have come to the folder. The own process id, if they have.
pub(crate) fn meet((folder, processes): (PathBuf, usize)) -> Option<u32> {
    let me = std::process::id();
    fs::write(folder.join(me.to_string()), "").expect("the folder is there");
    wait_until(|| files(&folder) >= processes).then_some(me)
}

/// How many files are in a folder.
pub(crate) fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Process ids of the children of this process.
pub(crate) fn children() -> Vec<u32> {
    let parent = std::process::id().to_string();
    let is_child = |pid: &u32| {
        // "pid (name) state ppid ...", where the name may hold blanks and brackets.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)) == Some(&parent)
    };
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// What this test was started as by another test, if it was.
pub(crate) fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// This test program again, to run the test of this name as `case`, without the variables that set options.
pub(crate) fn child(test: &str, case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test program has a path"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FASTMAP_") {
            command.env_remove(name);
        }
    }
    command.args(["--exact", test, "--nocapture"]).env(CASE, case);
    command
}

/// Runs a child to its end, which must be a good one; what it wrote to stderr.
pub(crate) fn stderr_of(mut child: Command) -> String {
    let Output { status, stdout, stderr } = child.output().expect("a test program can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{child:?}: {status}\n{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{child:?} ran no test:\n{stdout}");
    stderr.into_owned()
}
