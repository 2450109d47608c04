//! Folder of one service's temporary files: sockets, copies of programs, the data of `--dev`. It is locked
//! while the service lives, so that the next service can remove the folder of one that was killed.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::Uid;
use tempfile::TempDir;

use super::owner::{Lock, lock};

/// Prefix of the folder's name.
const PREFIX: &str = "fastmap-service-";
/// Attempts to make the folder: another service that starts may take a new, unlocked one for a dead
/// service's.
const ATTEMPTS: u32 = 10;

/// The temporary folder of this process, once it is set.
static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();

/// The temporary folder of this process, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: Lock,
}

impl Scratch {
    /// Removes the folders of dead services, and makes this process's temporary folder (TMPDIR). Must be
    /// called before a second thread is started.
    ///
    /// # Errors
    /// If the folder can't be made, or if other threads are running.
    pub fn begin() -> io::Result<Scratch> {
        if fs::read_dir("/proc/self/task")?.count() != 1 {
            return Err(io::Error::other("the temporary folder is set before the first thread is started"));
        }
        let temporary = std::path::absolute(std::env::temp_dir())?;
        sweep(&temporary);
        let mut attempt = 0;
        let scratch = loop {
            match Scratch::make(&temporary) {
                Ok(scratch) => break scratch,
                Err(error) if attempt == ATTEMPTS => {
                    let text = format!("in the temporary folder {} (TMPDIR): {error}", temporary.display());
                    return Err(io::Error::new(error.kind(), text));
                }
                Err(_) => attempt += 1,
            }
        };
        let _set_once = FOLDER.set(scratch.folder.path().to_owned());
        // SAFETY: no other thread exists that could read the environment.
        unsafe { std::env::set_var("TMPDIR", scratch.folder.path()) };
        Ok(scratch)
    }

    fn make(temporary: &Path) -> io::Result<Scratch> {
        let mut builder = tempfile::Builder::new();
        let folder =
            builder.prefix(PREFIX).permissions(Permissions::from_mode(0o700)).tempdir_in(temporary)?;
        let lock = lock(File::open(folder.path())?)?;
        // Check that it still exists: a sweep may have removed it before it was locked. Once locked, no
        // service removes it.
        fs::metadata(folder.path())?;
        Ok(Scratch { folder, _lock: lock })
    }

    /// Lets other users pass through this process's folder without listing it. Needed where workers' users
    /// look up the paths of programs and sockets.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn let_through() -> io::Result<()> {
        match FOLDER.get() {
            Some(folder) => fs::set_permissions(folder, Permissions::from_mode(0o711)),
            None => Ok(()),
        }
    }
}

/// Removes the folders of dead services. A living service holds the lock of its folder.
fn sweep(temporary: &Path) {
    let own = Uid::effective().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let named = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == 6));
        // Only folders of this user, and no links: other users may write to the temporary folder.
        let own_folder =
            named && fs::symlink_metadata(entry.path()).is_ok_and(|it| it.is_dir() && it.uid() == own);
        if !own_folder {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        // Hold the lock until the folder is removed. Otherwise a service that has just made it could lock it
        // meanwhile, and lose it.
        if let Ok(_held) = lock(folder) {
            let _retried_by_the_next_service = fs::remove_dir_all(entry.path());
        }
    }
}
