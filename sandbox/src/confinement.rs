//! Confines the calling process, and says what the kernel lacks for that.

use std::sync::atomic::AtomicU32;
use std::{fmt, io};

use crate::refusal_record::DenialLog;

/// How much confinement is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ConfinementLevel {
    /// None.
    #[default]
    Off,
    /// Each layer that the kernel has.
    BestEffort,
    /// All layers, or none.
    Full,
}

/// A part of the confinement that a kernel has or lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Keeps files from being opened.
    Landlock,
    /// Refuses system calls: network, other processes, administration, changes to files.
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

/// A layer that is not available here. Its text gives the reason, as far as the kernel's answer shows it.
#[derive(Debug, thiserror::Error)]
#[error("{}{layer}", self.reason())]
pub struct MissingFeature {
    /// Which.
    pub layer: Layer,
    /// What the kernel said.
    #[source]
    pub why: io::Error,
}

impl MissingFeature {
    /// What stands before the layer's name.
    fn reason(&self) -> &'static str {
        match self.why.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel lacks ",
            Some(libc::EOPNOTSUPP) => "this kernel was started without (its parameter lsm=) ",
            // A kernel that has it answers otherwise.
            Some(libc::EPERM | libc::EACCES) => {
                "what surrounds this process (a container's profile, systemd's SystemCallFilter=) refuses "
            }
            // Its attendant is a thread.
            Some(libc::EAGAIN) => {
                "this process may start no thread (TasksMax= of systemd, a container's limit of pids, ulimit -u) for "
            }
            _ => "this process can't have ",
        }
    }
}

/// What holds, for the rest of the life of this process.
#[derive(Debug)]
#[must_use = "a layer may be missing"]
pub struct Confinement {
    /// Layers that hold.
    pub holding: Vec<Layer>,
    /// Layers that the kernel lacks.
    pub missing_features: Vec<MissingFeature>,
    /// Why there is no `/tmp` and no `/dev/shm` of this process's own, if there is none: writing there is
    /// refused.
    pub no_temporary_files: Option<io::Error>,
}

/// The layers that the kernel lacks for this process, found without confining it.
pub fn missing_features() -> Vec<MissingFeature> {
    let tried = [
        (Layer::Landlock, crate::landlock::available()),
        (Layer::Seccomp, crate::seccomp::available(libc::SECCOMP_RET_TRAP)),
    ];
    tried.into_iter().filter_map(|(layer, tried)| Some(MissingFeature { layer, why: tried.err()? })).collect()
}

/// The version of Landlock that this kernel has; `None`: it has none, or not switched on.
pub fn landlock_abi() -> Option<u32> {
    crate::landlock::abi().ok()
}

/// Confines this process, for ever. What is refused goes to `record`, with the number that `running` then holds.
///
/// It then has a `/tmp` and a `/dev/shm` of its own, in memory, and TMPDIR is not set.
///
/// To be called once, before the first thread is started: Landlock covers the calling thread and its descendants only.
/// Descriptors that are open stay usable. The record may lie in memory that another process shares.
///
/// # Errors
/// For [`ConfinementLevel::Full`], the first layer that the kernel lacks; what was confined until then stays so.
pub fn confine(
    demand: ConfinementLevel,
    record: &'static DenialLog,
    running: &'static AtomicU32,
) -> Result<Confinement, MissingFeature> {
    let mut confinement =
        Confinement { holding: Vec::new(), missing_features: Vec::new(), no_temporary_files: None };
    if demand == ConfinementLevel::Off {
        return Ok(confinement);
    }
    crate::refusal_record::keep(record, running);
    // Only where Landlock keeps the function within it.
    if crate::landlock::available().is_ok() {
        match crate::temporary::make() {
            // SAFETY: there is no second thread yet, as this function's contract says.
            Ok(()) => unsafe { crate::temporary::unset_variables() },
            Err(why) => confinement.no_temporary_files = Some(why),
        }
    }
    // Landlock first: it needs calls that seccomp refuses.
    for (layer, install) in [
        (Layer::Landlock, crate::landlock::install as fn() -> io::Result<()>),
        (Layer::Seccomp, crate::seccomp::install),
    ] {
        match install() {
            Ok(()) => confinement.holding.push(layer),
            Err(why) => {
                let lack = MissingFeature { layer, why };
                if demand == ConfinementLevel::Full {
                    return Err(lack);
                }
                confinement.missing_features.push(lack);
            }
        }
    }
    Ok(confinement)
}

/// Has this process, which a jail confines, write down what is refused to it, and which files it looks for that
/// are not there, with the number that `running` then holds. Refused are the calls that [`confine`] refuses.
///
/// It takes nothing away from the jail, whose filters hold as before: a filter can only refuse more.
///
/// To be called once, before the first thread is started.
///
/// # Errors
/// If no jail of this list is around the process, or this kernel has no filters that raise signals.
pub fn watch(record: &'static DenialLog, running: &'static AtomicU32) -> io::Result<()> {
    if !crate::seccomp::is_jailed() {
        return Err(io::Error::other("no jail's filter is in force"));
    }
    crate::refusal_record::keep(record, running);
    crate::path_calls::leave_to_the_jail();
    crate::seccomp::install_inside()
}
