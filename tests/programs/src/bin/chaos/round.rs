//! One round, seen from outside: starts the host of the plan, strikes, and looks at what it said and what it left.

use std::fmt::Write;
use std::fs::{File, Permissions, create_dir, read_dir, read_to_string, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_test_programs::{command_line, open_copy, program, state};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::plan::{Plan, Shortage};
use crate::storm::{Blows, strike};

/// Workers of a dead host are gone by then.
const GONE: Duration = Duration::from_secs(10);

/// So many workers have to be killed in an item until it is taken for the cause.
const KILLS_OF_ONE: u64 = 4;

/// Where checkpoints are, in the temporary folder.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// A disk of its own for checkpoints, in memory; taken away at the end. Only root may have one.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(folder: &'a Path, bytes: u64) -> Option<Disk<'a>> {
        let options = format!("size={bytes},mode=777");
        let mounted = mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()));
        mounted.is_ok().then(|| Disk(folder))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).expect("it was mounted");
    }
}

/// What a round came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) blows: Blows,
    pub(crate) items: u64,
    /// Lethal items that were answered by their own error.
    pub(crate) lethal: u64,
    /// Items that were answered by a crash, for their workers were killed again and again.
    pub(crate) blamed: u64,
    /// Maps that ended by an error, for what the system refused.
    pub(crate) cut: u64,
    /// Hosts that went on where a killed one had left its checkpoints.
    pub(crate) resumed: u64,
    /// What must not be, in words.
    pub(crate) wrong: Vec<String>,
}

pub(crate) fn play(seed: u64, round: u64) -> Outcome {
    let plan = Plan::draw(seed, round);
    let out = TempDir::new().expect("a folder for what the host says");
    let temporary = TempDir::new().expect("a folder for what the host makes");
    let checkpoints = temporary.path().join(CHECKPOINTS);
    create_dir(&checkpoints).expect("a folder for checkpoints");
    set_permissions(&checkpoints, Permissions::from_mode(0o777)).expect("the folder is our own");
    let _disk = plan.small_disk.and_then(|bytes| Disk::new(&checkpoints, bytes));
    let mut outcome = watch("host", seed, round, &plan, out.path(), temporary.path());
    if outcome.blows.hosts > 0 && plan.maps.iter().any(|map| map.checkpoint) {
        // What the first has answered was not counted: it did not come to its end.
        let plan = plan.in_peace();
        let again = watch("again", seed, round, &plan, out.path(), temporary.path());
        outcome.resumed = 1;
        outcome.items += again.items;
        outcome.lethal += again.lethal;
        outcome.blamed += again.blamed;
        outcome.cut += again.cut;
        outcome.wrong.extend(again.wrong.into_iter().map(|wrong| format!("going on: {wrong}")));
    }
    outcome
}

/// One host, until it is over.
fn watch(role: &str, seed: u64, round: u64, plan: &Plan, out: &Path, temporary: &Path) -> Outcome {
    let mut child = start(role, seed, round, plan, out, temporary);
    let group = child.id().cast_signed();
    let (ended, blows) = strike(plan, &mut child);
    let mut outcome = Outcome { blows, ..Outcome::default() };
    if !ended {
        outcome.wrong.push(format!("the host hangs: {}", processes(group)));
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let status = child.wait().expect("it is a child of this process");
    let said = read_to_string(out.join("stdout")).unwrap_or_default();
    for line in said.lines() {
        if line.starts_with("wrong") {
            outcome.wrong.push(line.to_owned());
        }
        let words: Vec<&str> = line.split(' ').collect();
        if let ["items", items, "lethal", lethal, "blamed", blamed, "cut", cut] = words[..] {
            let number = |text: &str| text.parse::<u64>().unwrap_or_default();
            outcome.items += number(items);
            outcome.lethal += number(lethal);
            outcome.blamed += number(blamed);
            outcome.cut += number(cut);
        }
    }
    if outcome.blamed * KILLS_OF_ONE > outcome.blows.kills {
        outcome.wrong.push(format!("{} items blamed for {} kills", outcome.blamed, outcome.blows.kills));
    }
    let killed = outcome.blows.hosts > 0 && status.signal() == Some(Signal::SIGKILL as i32);
    if !(killed || status.success() && said.ends_with("end\n")) {
        let stderr = read_to_string(out.join("stderr")).unwrap_or_default();
        let tail: Vec<&str> = stderr.lines().rev().take(12).collect();
        outcome.wrong.push(format!("the host ended by {status}, after {said:?} and (backwards) {tail:#?}"));
    }
    if !gone(group) {
        outcome.wrong.push(format!("left behind: {}", processes(group)));
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    // A host that is killed between making a socket for a new worker and hearing of it can't take it away.
    let files = read_dir(temporary).map_or(usize::MAX, Iterator::count);
    if files > 1 && !killed && role == "host" {
        outcome.wrong.push(format!("{files} files left in the temporary folder"));
    }
    outcome
}

fn start(role: &str, seed: u64, round: u64, plan: &Plan, out: &Path, temporary: &Path) -> Child {
    let mut own = std::env::current_exe().expect("this program has a path");
    let shortage = plan.hardship.map(|hardship| hardship.shortage);
    let other_user = shortage == Some(Shortage::Processes) && geteuid().is_root();
    if other_user {
        own = open_copy(&own, out);
    }
    let mut command = program(own.to_str().expect("a plain path"));
    let file = |name: &str| Stdio::from(File::create(out.join(name)).expect("a file for its words"));
    command.args([role, &seed.to_string(), &round.to_string()]);
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    command.env("TMPDIR", temporary).env("RUST_BACKTRACE", "0").process_group(0);
    if other_user {
        // Root may have as many processes as it likes: be somebody else, whom nobody else is.
        let user = 61_000 + (std::process::id() + round as u32) % 4000;
        set_permissions(temporary, Permissions::from_mode(0o777)).expect("the folder is our own");
        command.uid(user).gid(user);
    }
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Processes of that group that live, with what each is called and does.
fn members(group: i32) -> Vec<i32> {
    let all = read_dir("/proc").expect("/proc can be read");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let of_group = |pid: &i32| {
        let text = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let words = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        // State, parent, group.
        let mut words = words.split_whitespace();
        !matches!(words.next(), Some("Z" | "X") | None) && words.nth(1) == Some(group.to_string().as_str())
    };
    pids.filter(of_group).collect()
}

fn gone(group: i32) -> bool {
    let deadline = Instant::now() + GONE;
    while !members(group).is_empty() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(2));
    }
    true
}

/// Who is there and in what each of its threads waits, for the report of what hangs.
fn processes(group: i32) -> String {
    let mut text = String::new();
    for pid in members(group) {
        let _ = write!(text, "\n  {pid} {:?} {}:", state(pid), command_line(pid));
        for task in read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |name: &str| read_to_string(task.path().join(name)).unwrap_or_default();
            let _ = write!(text, " [{} {} {}]", read("comm").trim(), read("wchan"), read("syscall").trim());
        }
    }
    text
}
