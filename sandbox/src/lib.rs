//! Confinement of a worker: the kernel denies what the function's contract forbids (files, network, other
//! processes), and denied calls are recorded.
//!
//! A worker calls [`confine`] once, after its channels are made and before its first thread. `landlock`
//! allows only reading the files that a program needs to run. `calls` is the list of system calls, the same
//! as a jail's; `filters` compiles filters from it, and `seccomp` installs them. A denied call reaches
//! `sigsys_handler` (a signal handler) or, if it would start a process, `notify_thread` (a thread). Both
//! write to the [`DenialLog`], from which the worker and its host report the call that an item failed of.
//! [`missing_features`] reports what the kernel lacks before any worker is started. [`watch`] is for a worker
//! in a jail: it does not confine, and records the same calls.
//!
//! Neither layer is enough alone: Landlock does not cover UDP, sockets with a path, `io_uring` or
//! administration, and seccomp can't distinguish files.
//!
//! `readable_files` lists the machine's files that confined and jailed workers can read; `temporary` makes a
//! worker's own `/tmp`; `path_calls` decides on the calls that name a file.
//!
//! `memory_group` reads the kernel's counts of out-of-memory kills. [`unpoisoned`] has the locks of all
//! crates.
//!
//! All of this protects the user's own program from mistakes. An untrusted executable sent to the service
//! runs in a jail (cargo feature `jail`): `jail` isolates the process by bubblewrap, seccomp and cgroups, and
//! does not rely on the process's own filters; `elf` reads the executable before it is run.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("the sandbox knows the system calls of Linux on x86-64 and aarch64");

mod calls;
mod confinement;
#[cfg(feature = "jail")]
pub mod elf;
mod filters;
#[cfg(feature = "jail")]
pub mod jail;
mod landlock;
mod memory_group;
mod notify_thread;
mod path_calls;
mod readable_files;
mod refusal;
pub(crate) mod refusal_notes;
mod refusal_record;
mod refusal_slot;
mod seccomp;
mod sigsys_handler;
mod temporary;
pub mod unpoisoned;
pub use crate::memory_group::{MemoryGroup, most_processes};
pub use crate::readable_files::is_zone;
pub use crate::refusal::{Refusal, named};
pub use crate::refusal_record::{DenialLog, record};

pub use confinement::{
    Confinement, ConfinementLevel, Layer, MissingFeature, confine, landlock_abi, missing_features, watch,
};
