//! Confinement of workers: what the code in a worker process may do to the machine that it runs on.
//!
//! `jail` (cargo feature `jail`) is for executables that strangers have sent to the service: bubblewrap, seccomp and
//! cgroups around a process that is trusted with nothing. `elf` reads such an executable before anything runs it.

#[cfg(feature = "jail")]
pub mod elf;
#[cfg(feature = "jail")]
pub mod jail;
