//! What the service and its jails use, as the kernel counts it, and what was billed for it.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastmap_test_programs::write_program;
use tempfile::TempDir;

use crate::server::{FASTMAP, Server};

/// Slack of the comparisons with the idle service.
const DESCRIPTORS: usize = 16;
const FILES: usize = 64;
const KEPT: u64 = 160 << 20;

/// A folder for the service's temporary files, which jailed users may enter.
pub(crate) fn temporary_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("it is ours");
    folder
}

/// What a service holds at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Bytes of resident memory.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    /// Files of its data and its temporary folder.
    pub(crate) files: usize,
    /// What these take on the disk.
    pub(crate) disk: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { memory, descriptors, files, disk } = self;
        write!(
            f,
            "{} MB of memory, {descriptors} descriptors, {files} files of {} MB",
            memory >> 20,
            disk >> 20
        )
    }
}

impl Sample {
    pub(crate) fn of(pid: i32, data: &Path, temporary: &Path) -> Sample {
        let (mut files, mut disk) = (0, 0);
        for folder in [data, temporary] {
            let (number, bytes) = size(folder);
            files += number;
            disk += bytes;
        }
        Sample {
            memory: memory(pid),
            descriptors: entries(Path::new(&format!("/proc/{pid}/fd"))),
            files,
            disk,
        }
    }

    /// Whether nothing of what was taken since `before` is still held.
    pub(crate) fn is_back_at(&self, before: &Sample) -> bool {
        self.descriptors <= before.descriptors + DESCRIPTORS
            && self.files <= before.files + FILES
            && self.memory <= before.memory + KEPT
    }
}

fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
}

pub(crate) fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Number of files below a folder, and the bytes that they take.
fn size(folder: &Path) -> (usize, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        files += 1;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            let below = size(&entry.path());
            files += below.0;
            bytes += below.1;
        }
    }
    (files, bytes)
}

/// Watches the memory of a process.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

pub(crate) fn watch(pid: i32) -> Watch {
    let (stop, most) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let thread = std::thread::spawn({
        let (stop, most) = (Arc::clone(&stop), Arc::clone(&most));
        move || {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(memory(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    Watch { stop, most, thread }
}

impl Watch {
    /// The most bytes that it had.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it reads a file");
        self.most.load(Ordering::Relaxed)
    }
}

/// CPU time of the process itself, without its children.
pub(crate) fn own_cpu(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(vec![], |(_, rest)| rest.split(' ').collect());
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    // Fields 14 and 15 of the line, in hundredths of a second on every Linux.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// What was billed to all runs of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Billed {
    pub(crate) cpu: Duration,
    pub(crate) runs: u64,
}

impl Billed {
    /// From the ledger: the service asks a credit for each second, and nothing for answers.
    pub(crate) fn of(server: &Server) -> Billed {
        let (mut micros, mut runs) = (0, 0);
        let accounts = server.json(&["account", "list"]);
        for account in accounts.as_array().expect("a list") {
            let name = account["name"].as_str().expect("a name");
            let credits = server.balance(name);
            let given = fastmap_service::pricing::read(super::CREDITS).expect("a number");
            micros += given - credits;
            runs += server
                .json(&["runs", "list", name, "--most", "1000000"])
                .as_array()
                .map_or(0, |runs| runs.len() as u64);
        }
        Billed { cpu: Duration::from_micros(micros.max(0).unsigned_abs()), runs }
    }
}

/// A control group of the suite's own, above those of a service and its jails: what it counts stays when they are gone.
pub(crate) struct Group {
    folders: Vec<PathBuf>,
}

impl Group {
    pub(crate) fn new() -> Group {
        let name = format!("attack-suite-{}-{}", std::process::id(), number());
        let own = fs::read_to_string("/proc/self/cgroup").expect("a kernel with control groups");
        let roots: Vec<PathBuf> = own.lines().filter_map(root).collect();
        let folders: Vec<PathBuf> = roots.iter().map(|root| root.join(&name)).collect();
        for folder in &folders {
            fs::create_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        Group { folders }
    }

    /// Starts a service with jails in the group; the groups of its jails are made below. Its temporary files are in `folder`.
    pub(crate) fn serve(&self, options: &[&str], folder: &Path) -> Server {
        let program = folder.join("serve");
        let doors: Vec<String> =
            self.folders.iter().map(|folder| format!("echo $$ >{}/cgroup.procs", folder.display())).collect();
        let script = format!("#!/bin/sh\nset -e\n{}\nexec {FASTMAP} \"$@\"\n", doors.join("\n"));
        write_program(&program, script.as_bytes());
        let server = Server::start_jailed_as(&program, options, &[("TMPDIR", folder.to_owned())]);
        server.expect("the tests are left out without jails")
    }

    /// Moves a process into a group of its own, to which the kernel gives little while others want to run.
    pub(crate) fn put_last(pid: u32) -> Group {
        let group = Group::new();
        for folder in &group.folders {
            for (file, least) in [("cpu.shares", "64"), ("cpu.weight", "6")] {
                if folder.join(file).exists() {
                    fs::write(folder.join(file), least).expect("root may");
                }
            }
            fs::write(folder.join("cgroup.procs"), pid.to_string()).expect("root may");
        }
        group
    }

    /// CPU time of all that is or was in it.
    pub(crate) fn cpu(&self) -> Duration {
        let read = |folder: &PathBuf| {
            let nanos = fs::read_to_string(folder.join("cpuacct.usage")).ok();
            let nanos = nanos.and_then(|text| text.trim().parse().ok()).map(Duration::from_nanos);
            nanos.or_else(|| {
                let stat = fs::read_to_string(folder.join("cpu.stat")).ok()?;
                let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                line.trim().parse().ok().map(Duration::from_micros)
            })
        };
        self.folders.iter().find_map(read).expect("a controller that counts CPU time")
    }

    /// Processes in it other than this one.
    pub(crate) fn jailed(&self, service: i32) -> usize {
        let mut all: Vec<i32> = self.folders.iter().flat_map(|folder| processes(folder)).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().filter(|pid| *pid != service).count()
    }

    /// Names of the groups below it: one of the living service, and those of its jails.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        let below = |folder: &PathBuf| {
            let relative = |path: PathBuf| path.strip_prefix(folder).expect("it is below").to_owned();
            folders_below(folder).into_iter().map(relative).collect::<Vec<_>>()
        };
        let mut names: Vec<PathBuf> = self.folders.iter().flat_map(below).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            for below in folders_below(folder).into_iter().rev() {
                let _left = fs::remove_dir(below);
            }
            let _left = fs::remove_dir(folder);
        }
    }
}

fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Where a line of /proc/self/cgroup is mounted, for the controllers that jails use.
fn root(line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let wanted = |name: &str| ["memory", "pids", "cpu", "cpuacct"].contains(&name);
    let base = match controllers {
        "" => PathBuf::from("/sys/fs/cgroup"),
        named => {
            let name = named.split(',').find(|name| wanted(name))?;
            [named, name]
                .into_iter()
                .map(|name| Path::new("/sys/fs/cgroup").join(name))
                .find(|at| at.exists())?
        }
    };
    let at = base.join(path.trim_start_matches('/'));
    // Of version 2 only where it has the controllers; beside version 1 it is mounted elsewhere.
    (at.join("cgroup.procs").exists() && !(controllers.is_empty() && base.join("memory").exists()))
        .then_some(at)
}

fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.append(&mut folders_below(&entry.path()));
        }
    }
    found
}

fn processes(folder: &Path) -> Vec<i32> {
    let mut folders = folders_below(folder);
    folders.push(folder.to_owned());
    let read = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    folders
        .iter()
        .flat_map(|folder| read(folder).lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
        .collect()
}
