//! What the kernel tells of processes: who descends from whom, the CPU time of each, and how busy the machine is.

use std::collections::HashSet;
use std::fs;
use std::process;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

/// The unit of CPU times under `/proc`, on all platforms of fastmap.
const TICKS_A_SECOND: f64 = 100.0;

/// A process as `/proc/PID/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// With that of its children that have ended.
    cpu_seconds: f64,
    /// Together with `pid`, which is used again, it names a process.
    begun: u64,
    zombie: bool,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; what follows begins with the third field.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Process {
            pid,
            parent: number(4)? as u32,
            cpu_seconds: (14..=17).filter_map(number).sum::<u64>() as f64 / TICKS_A_SECOND,
            begun: number(22)?,
            zombie: *fields.first()? == "Z",
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.begun == self.begun && !now.zombie)
    }

    /// CPU time of its threads, to the nanosecond.
    pub(crate) fn precise_cpu_seconds(&self) -> f64 {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return 0.0 };
        let nanoseconds = |path: std::path::PathBuf| {
            fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse::<u64>().ok()
        };
        threads.flatten().filter_map(|thread| nanoseconds(thread.path())).sum::<u64>() as f64 / 1e9
    }
}

/// The processes that descend from `ancestor`.
pub(crate) fn descendants(ancestor: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let mut found = HashSet::from([ancestor]);
    loop {
        let before = found.len();
        found.extend(
            all.iter()
                .filter(|process| found.contains(&process.parent))
                .map(|process| process.pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            break;
        }
    }
    all.into_iter().filter(|process| process.pid != ancestor && found.contains(&process.pid)).collect()
}

/// How busy the machine has been, and how much of it this process and its descendants have been, up to a moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    at: Instant,
    machine: f64,
    own: f64,
}

impl Snapshot {
    pub(crate) fn now() -> Self {
        let own = |who| {
            let usage = getrusage(who).expect("the kernel counts the time of this process");
            [usage.user_time(), usage.system_time()]
                .iter()
                .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
                .sum::<f64>()
        };
        let workers: f64 = descendants(process::id()).iter().map(|process| process.cpu_seconds).sum();
        Snapshot {
            at: Instant::now(),
            machine: machine_cpu_seconds(),
            own: own(UsageWho::RUSAGE_SELF) + own(UsageWho::RUSAGE_CHILDREN) + workers,
        }
    }

    /// The share of the machine's cores that others have taken since then.
    pub(crate) fn taken_by_others(&self) -> f64 {
        let now = Snapshot::now();
        let others = (now.machine - self.machine) - (now.own - self.own);
        others / (now.at.duration_since(self.at).as_secs_f64() * cores() as f64)
    }
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Time that the cores were busy: user, nice, system, irq, softirq, and stolen by other virtual machines.
fn machine_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 5, 6, 7].iter().filter_map(|field| fields.get(*field)).sum::<f64>() / TICKS_A_SECOND
}
