//! Findings about what any map needs of a machine: cores, a temporary folder, descriptors, processes, and a kernel that
//! confines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fastmap_backends::local::MOST_TEMP_FOLDER;
use fastmap_sandbox::{Layer, most_processes};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use super::finding::{Finding, bad, fair, good};

/// Bytes that a service should have for the programs of its runs.
const ROOM: u64 = 1 << 30;

/// `serve`: it is to be a service, too.
pub(super) fn look(serve: bool) -> Vec<Finding> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let mut all = vec![
        good("version", format!("fastmap {version}")),
        good("kernel", format!("Linux {}, {}", kernel.trim(), std::env::consts::ARCH)),
        cores(),
        temporary_folder(serve),
        open_files(serve),
        processes(),
    ];
    all.extend(layers());
    all
}

fn cores() -> Finding {
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let online = fs::read_to_string("/proc/cpuinfo")
        .map_or(0, |text| text.lines().filter(|line| line.starts_with("processor")).count());
    if online > here {
        let advice = "its control group or affinity gives it no more: where that is not meant, look at the container's cpus, taskset, \
                      nproc";
        return fair("cores", format!("{here} of {online} for this process"), advice);
    }
    good("cores", here.to_string())
}

/// Workers report for duty by a socket that is made there, or in shared memory; a service lays out the programs of its
/// runs there.
fn temporary_folder(serve: bool) -> Finding {
    let own = own_temporary_folder(serve);
    if own.good || serve || tempfile::tempdir_in("/dev/shm").is_err() {
        return own;
    }
    fair(
        own.name,
        format!("{}; workers report in /dev/shm instead", own.found),
        own.advice.unwrap_or_default(),
    )
}

fn own_temporary_folder(serve: bool) -> Finding {
    const NAME: &str = "temporary folder";
    let path = std::env::temp_dir();
    let shown = path.display().to_string();
    let advice = "set TMPDIR to a folder that is there and can be written to";
    if !path.is_dir() {
        return bad(NAME, format!("{shown} is not there, or no folder"), advice);
    }
    if path.as_os_str().len() > MOST_TEMP_FOLDER {
        let found = format!("{shown}: its name is too long for a socket");
        return bad(NAME, found, format!("set TMPDIR to one of at most {MOST_TEMP_FOLDER} bytes"));
    }
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return bad(NAME, format!("{shown}: {error}"), advice),
    };
    let free = statvfs(&path).map_or(0, |found| found.blocks_available() * found.fragment_size());
    let found = format!("{shown}, {:.1} GB free", free as f64 / 1e9);
    if !serve {
        return good(NAME, found);
    }
    let started = || -> std::io::Result<bool> {
        let script = folder.path().join("try");
        fs::write(&script, "#!/bin/sh\nexit 0\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(Command::new(&script).status()?.success())
    };
    match started() {
        Ok(true) if free < ROOM => {
            fair(NAME, found, "programs of runs are laid out there, of up to --max-executable bytes each")
        }
        Ok(true) => good(NAME, found),
        Ok(false) => bad(NAME, format!("{shown}: a program there fails"), "set TMPDIR"),
        Err(error) => bad(
            NAME,
            format!("{shown}: {error}"),
            "set TMPDIR to a folder that can be written to and is not mounted noexec",
        ),
    }
}

/// A limit of the system, and whether it is one.
fn limit(resource: Resource) -> (u64, String) {
    match getrlimit(resource) {
        Ok((soft, _)) if soft == nix::libc::RLIM_INFINITY => (u64::MAX, "no limit".to_owned()),
        Ok((soft, _)) => (soft, format!("at most {soft} at a time")),
        Err(error) => (u64::MAX, error.to_string()),
    }
}

fn open_files(serve: bool) -> Finding {
    let (most, found) = limit(Resource::RLIMIT_NOFILE);
    match most {
        ..4096 if serve => fair("open files", found, "for many clients: ulimit -n 65536 (LimitNOFILE=)"),
        _ => good("open files", found),
    }
}

fn processes() -> Finding {
    let (_, found) = limit(Resource::RLIMIT_NPROC);
    let group = most_processes().map_or_else(String::new, |most| format!("; {most} in this control group"));
    good("processes", format!("{found}, of this user with all threads{group}"))
}

/// What confines local workers.
fn layers() -> Vec<Finding> {
    let missing_features = fastmap_sandbox::missing_features();
    let lack = |layer| missing_features.iter().find(|lack| lack.layer == layer);
    let advice = "local workers do without it, and say so; with FASTMAP_SANDBOX=require that is an error";
    let landlock = match (fastmap_sandbox::landlock_abi(), lack(Layer::Landlock)) {
        (Some(abi), None) => good("landlock", format!("ABI {abi}")),
        (_, lack) => {
            let why = lack.map(|lack| format!("{lack}: {}", lack.why)).unwrap_or_default();
            fair("landlock", why, advice)
        }
    };
    let seccomp = match lack(Layer::Seccomp) {
        None => good("seccomp listener", "filters, and who is asked about them"),
        Some(lack) => fair("seccomp listener", format!("{lack}: {}", lack.why), advice),
    };
    vec![landlock, seccomp]
}
