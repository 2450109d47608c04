//! Publishes a jail's limits to libraries: environment variables with the number of threads to start, and
//! copies of the kernel's files. Without them a library sees the machine's cores and starts a thread for
//! each, and all of them share the jail's CPU quota. Used by `bubblewrap`.
//!
//! Workers keep the machine's CPU affinity, because a worker bound to one core waits for it while others are
//! idle.

use crate::jail::spec::Limits;

/// Environment variables from which libraries take their number of threads.
const THREADS: [&str; 9] = [
    "BLIS_NUM_THREADS",
    "GOMAXPROCS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
];

/// Keeps LLVM's OpenMP from using the CPU affinity. It compares the affinity, which is the machine's, with
/// the number of cores, which is the jail's share; version 19 aborts where the two differ.
const AFFINITY: (&str, &str) = ("KMP_AFFINITY", "disabled");

/// Folder of the CPUs. Old versions of the C library count its subfolders.
const CORES: &str = "/sys/devices/system/cpu";

/// Period of `cpu.max`, in microseconds.
const PERIOD: u64 = 100_000;

impl Limits {
    /// Number of whole CPUs; at least one.
    pub(super) fn cores(&self) -> u32 {
        self.cpus.max(1.0) as u32
    }
}

/// Returns the environment variables with their values.
pub(super) fn variables(limits: &Limits) -> impl Iterator<Item = (&'static str, String)> {
    let threads = limits.cores().to_string();
    let threads = THREADS.into_iter().map(move |name| (name, threads.clone()));
    threads.chain([(AFFINITY.0, AFFINITY.1.to_owned())])
}

/// Returns paths of files with their contents. The files are those of cgroup v2, whichever version the
/// machine has, with the jail's own group as the root.
pub(super) fn files(limits: &Limits) -> Vec<(String, String)> {
    let cores = limits.cores();
    let online = if cores == 1 { "0\n".to_owned() } else { format!("0-{}\n", cores - 1) };
    let quota = (limits.cpus * PERIOD as f64) as u64;
    let kilobytes = limits.memory >> 10;
    let memory =
        ["MemTotal", "MemFree", "MemAvailable"].map(|name| format!("{name}: {kilobytes} kB\n")).concat();
    let group = |name: &str| format!("/sys/fs/cgroup/{name}");
    vec![
        ("/proc/self/cgroup".to_owned(), "0::/\n".to_owned()),
        ("/proc/meminfo".to_owned(), format!("{memory}SwapTotal: 0 kB\nSwapFree: 0 kB\n")),
        (group("cgroup.controllers"), "cpu memory pids\n".to_owned()),
        (group("cpu.max"), format!("{quota} {PERIOD}\n")),
        (group("memory.max"), format!("{}\n", limits.memory)),
        (group("memory.swap.max"), "0\n".to_owned()),
        (group("pids.max"), format!("{}\n", limits.processes)),
        (format!("{CORES}/online"), online.clone()),
        (format!("{CORES}/possible"), online.clone()),
        (format!("{CORES}/present"), online),
    ]
}

/// Returns one folder for each core.
pub(super) fn folders(limits: &Limits) -> impl Iterator<Item = String> {
    (0..limits.cores()).map(|core| format!("{CORES}/cpu{core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cpus_are_announced_and_never_none() {
        let cores = |cpus: f64| Limits { cpus, ..Limits::default() }.cores();
        assert_eq!([0.3, 1.0, 1.9, 2.0].map(cores), [1, 1, 1, 2]);
        let files = files(&Limits { cpus: 2.5, ..Limits::default() });
        let content = |path: &str| files.iter().find(|(name, _)| name == path).map(|(_, text)| text.as_str());
        assert_eq!(content("/sys/fs/cgroup/cpu.max"), Some("250000 100000\n"));
        assert_eq!(content("/sys/devices/system/cpu/online"), Some("0-1\n"));
    }
}
