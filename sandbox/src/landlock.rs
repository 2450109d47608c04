//! Landlock rules: a program may read the files listed in `readable_files`, and write to the files that
//! `temporary` has made for this worker. Called by `confine`; uses the crate `landlock`.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::{readable_files, temporary};

/// Checks that this kernel has Landlock, and has it enabled.
pub(crate) fn available() -> io::Result<()> {
    abi().map(drop)
}

/// Returns the ABI version.
pub(crate) fn abi() -> io::Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: reads the version, and passes no memory.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<c_void>(), 0, VERSION) }
    {
        abi @ 1.. => Ok(abi as u32),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines this thread and all threads it starts.
pub(crate) fn install() -> io::Result<()> {
    available()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let own = [PathBuf::from("/proc/self/exe")].into_iter().chain(loaded_libraries());
    // In a jail `/etc/localtime` is a link to a zone of the list, that of the run.
    let paths = own.chain(readable_files::readable()).chain([PathBuf::from("/etc/localtime")]);
    // Includes ioctl, so that a device behaves as in an unconfined process.
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let inside = AccessFs::from_all(ABI::V3) & !(special_files() | AccessFs::Execute);
    let inside = temporary::root().map(|root| Ok::<_, RulesetError>(PathBeneath::new(root, inside)));
    // ABI version 1 is enough, and later ones add their checks. On older kernels seccomp denies what those
    // would: truncation, TCP, signals, abstract sockets.
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(paths, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(readable_files::DEVICES, device)))
        .and_then(|rules| rules.add_rules(inside))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    // On a kernel without support the library returns `Ok` and has done nothing.
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("it was not enforced")),
        _ => Ok(()),
    }
}

/// File types that temporary folders don't need: they lead to other paths or to other processes.
fn special_files() -> BitFlags<AccessFs> {
    AccessFs::MakeSym | AccessFs::MakeSock | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo
}

/// Returns the paths of all loaded libraries, because a backtrace reads them again for their symbols.
fn loaded_libraries() -> Vec<PathBuf> {
    unsafe extern "C" fn take(info: *mut libc::dl_phdr_info, _size: usize, paths: *mut c_void) -> c_int {
        // SAFETY: the linker passes the vector from below, and an object whose name is null or
        // NUL-terminated.
        unsafe {
            let paths = &mut *paths.cast::<Vec<PathBuf>>();
            if let Some(name) = (*info).dlpi_name.as_ref() {
                let name = CStr::from_ptr(name).to_bytes();
                if name.starts_with(b"/") {
                    paths.push(OsStr::from_bytes(name).into());
                }
            }
        }
        0
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    // SAFETY: `take` is called during this call only, and casts the pointer back to its type.
    unsafe { libc::dl_iterate_phdr(Some(take), (&raw mut paths).cast()) };
    paths
}
