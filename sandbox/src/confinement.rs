//! Confines the calling process, and reports the layers that the kernel lacks.

use std::sync::atomic::AtomicU32;
use std::{fmt, io};

use crate::refusal_record::DenialLog;

/// The requested level of confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ConfinementLevel {
    /// No confinement.
    #[default]
    Off,
    /// Each layer that the kernel supports.
    BestEffort,
    /// All layers; a missing one is an error.
    Full,
}

/// A layer of the confinement, which a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Prevents opening files.
    Landlock,
    /// Denies system calls: network, other processes, administration, changes to files.
    Seccomp,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Landlock => "Landlock, which keeps files from being read",
            Layer::Seccomp => "seccomp filters, which refuse system calls",
        })
    }
}

/// A layer that is not available to this process. Its text gives the reason, as far as the kernel's error
/// shows it.
#[derive(Debug, thiserror::Error)]
#[error("{}{layer}", self.reason())]
pub struct MissingFeature {
    /// The missing layer.
    pub layer: Layer,
    /// The kernel's error.
    #[source]
    pub why: io::Error,
}

impl MissingFeature {
    /// The part of the message before the layer's name.
    fn reason(&self) -> &'static str {
        match self.why.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel lacks ",
            Some(libc::EOPNOTSUPP) => "this kernel was started without (its parameter lsm=) ",
            // The kernel's own support never gives these errors.
            Some(libc::EPERM | libc::EACCES) => {
                "what surrounds this process (a container's profile, systemd's SystemCallFilter=) refuses "
            }
            // The handler of seccomp notifications needs a thread.
            Some(libc::EAGAIN) => {
                "this process may start no thread (TasksMax= of systemd, a container's limit of pids, ulimit -u) for "
            }
            _ => "this process can't have ",
        }
    }
}

/// The confinement in force for the rest of this process's life.
#[derive(Debug)]
#[must_use = "a layer may be missing"]
pub struct Confinement {
    /// Layers in force.
    pub holding: Vec<Layer>,
    /// Layers that the kernel lacks.
    pub missing_features: Vec<MissingFeature>,
    /// The reason, if this process has no `/tmp` and `/dev/shm` of its own: writing there is denied.
    pub no_temporary_files: Option<io::Error>,
}

/// Returns the layers that the kernel lacks for this process, without confining it.
pub fn missing_features() -> Vec<MissingFeature> {
    let tried = [
        (Layer::Landlock, crate::landlock::available()),
        (Layer::Seccomp, crate::seccomp::available(libc::SECCOMP_RET_TRAP)),
    ];
    tried.into_iter().filter_map(|(layer, tried)| Some(MissingFeature { layer, why: tried.err()? })).collect()
}

/// Returns the kernel's Landlock ABI version; `None` if Landlock is missing or not enabled.
pub fn landlock_abi() -> Option<u32> {
    crate::landlock::abi().ok()
}

/// Confines this process irrevocably. Denied calls are recorded in `record`, with the current value of
/// `running`.
///
/// The process then has a `/tmp` and a `/dev/shm` of its own, in memory, and TMPDIR is unset.
///
/// Must be called once, before the first thread is started, because Landlock covers only the calling thread
/// and its descendants. Open descriptors stay usable. The record may be in memory that another process
/// shares.
///
/// # Errors
/// For [`ConfinementLevel::Full`], the first layer that the kernel lacks. Layers installed before it stay in
/// force.
pub fn confine(
    level: ConfinementLevel,
    record: &'static DenialLog,
    running: &'static AtomicU32,
) -> Result<Confinement, MissingFeature> {
    let mut confinement =
        Confinement { holding: Vec::new(), missing_features: Vec::new(), no_temporary_files: None };
    if level == ConfinementLevel::Off {
        return Ok(confinement);
    }
    crate::refusal_record::set_record(record, running);
    // Without Landlock the function could also write elsewhere.
    if crate::landlock::available().is_ok() {
        match crate::temporary::make() {
            // SAFETY: this function's contract says that no second thread exists yet.
            Ok(()) => unsafe { crate::temporary::unset_variables() },
            Err(why) => confinement.no_temporary_files = Some(why),
        }
    }
    // Landlock first: its installation needs calls that seccomp denies.
    for (layer, install) in [
        (Layer::Landlock, crate::landlock::install as fn() -> io::Result<()>),
        (Layer::Seccomp, crate::seccomp::install),
    ] {
        match install() {
            Ok(()) => confinement.holding.push(layer),
            Err(why) => {
                let missing = MissingFeature { layer, why };
                if level == ConfinementLevel::Full {
                    return Err(missing);
                }
                confinement.missing_features.push(missing);
            }
        }
    }
    Ok(confinement)
}

/// Records denied calls and missing files of this jailed process, with the current value of `running`. It
/// denies the same calls as [`confine`].
///
/// The jail's filters stay in force: an additional filter can only deny more.
///
/// Must be called once, before the first thread is started.
///
/// # Errors
/// If the process is not in a jail with this list of calls, or the kernel has no filters that raise signals.
pub fn watch(record: &'static DenialLog, running: &'static AtomicU32) -> io::Result<()> {
    if !crate::seccomp::is_jailed() {
        return Err(io::Error::other("no jail's filter is in force"));
    }
    crate::refusal_record::set_record(record, running);
    crate::path_calls::set_in_jail();
    crate::seccomp::install_inside()
}
