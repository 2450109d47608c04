//! Files: nothing but reading what a program needs to go on running, which `readable_files` lists, and writing to what
//! `temporary` has made for this worker alone. Called by `confine`; calls the crate `landlock`.

use std::ffi::{CStr, OsStr, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::{readable_files, temporary};

/// Whether this kernel has it, and has it switched on.
pub(crate) fn available() -> io::Result<()> {
    abi().map(drop)
}

/// Its version.
pub(crate) fn abi() -> io::Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: asks for a version, which takes no memory.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<c_void>(), 0, VERSION) }
    {
        abi @ 1.. => Ok(abi as u32),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines this thread and all that it starts.
pub(crate) fn install() -> io::Result<()> {
    available()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let own = [PathBuf::from("/proc/self/exe")].into_iter().chain(loaded());
    // A jail's local time is that of the run, and leads to a zone of the list.
    let paths = own.chain(readable_files::readable()).chain([PathBuf::from("/etc/localtime")]);
    // As a file of any kind may be used, so that a device answers as it does where nothing is confined.
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let inside = AccessFs::from_all(ABI::V3) & !(special() | AccessFs::Execute);
    let inside = temporary::root().map(|root| Ok::<_, RulesetError>(PathBeneath::new(root, inside)));
    // The first version is enough, and later ones add what they have: seccomp refuses what these would (truncating, TCP,
    // signals, abstract sockets) on older kernels as well.
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
    // On a kernel that can't, the library says `Ok` and has done nothing.
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("it was not enforced")),
        _ => Ok(()),
    }
}

/// Kinds of files that no temporary folder needs: they lead elsewhere, or to other processes.
fn special() -> BitFlags<AccessFs> {
    AccessFs::MakeSym | AccessFs::MakeSock | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo
}

/// The libraries that are loaded, wherever they lie: a backtrace reads them again for their symbols.
fn loaded() -> Vec<PathBuf> {
    unsafe extern "C" fn take(info: *mut libc::dl_phdr_info, _size: usize, paths: *mut c_void) -> c_int {
        // SAFETY: the linker passes on the vector from below, and an object whose name is null or ends with a zero byte.
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
    // SAFETY: `take` is called during this call only, and takes the vector for what it is.
    unsafe { libc::dl_iterate_phdr(Some(take), (&raw mut paths).cast()) };
    paths
}
