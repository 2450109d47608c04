//! Confinement of a worker: what the function's contract forbids (files, network, other processes) is refused
//! by the kernel, and what was refused is on record.
//!
//! The tour: [`confine`] is called once by a worker, when its channels are made and before its first thread.
//! `landlock` leaves nothing of the file system but reading what a program needs to run. `calls` is the list of
//! system calls, the same as a jail's; `filters` makes filters from it, and `seccomp` installs them. A refused
//! call comes to `sigsys_handler` (a signal handler) or, where it would start a process, to `notify_thread` (a thread).
//! Both write to the [`DenialLog`], which the worker and its host read to say which call an item failed of.
//! [`missing_features`] tells a host what its kernel can't do, before any worker is started. [`watch`] is for a worker in
//! a jail: it confines nothing, and has the same calls on record.
//!
//! Two layers, because neither is enough: Landlock knows nothing of UDP, of sockets that have a path, of
//! `io_uring` or of administration; seccomp can't tell one file from another.
//!
//! `readable_files` lists the files of the machine that are there, confined or jailed; `temporary` makes a worker's
//! own `/tmp`; to `path_calls` come the calls that name a file.
//!
//! `memory_group` reads what the kernel tells of memory that ran out.
//!
//! That is for the user's own program, which is kept from mistakes. An executable that a stranger has sent to
//! the service gets a jail (cargo feature `jail`): `jail` puts bubblewrap, seccomp and cgroups around a
//! process that is trusted with nothing, and whose own filters it does not rely on; `elf` reads such an
//! executable before anything runs it.

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
