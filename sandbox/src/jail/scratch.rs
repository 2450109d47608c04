//! The folder of one service's temporary files: sockets, copies of programs, the data of `--dev`. It is
//! locked as long as the service lives, so that the next service removes what a service left that was killed.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::Uid;
use tempfile::TempDir;

use super::owner::{Lock, lock};

/// What its name begins with.
const PREFIX: &str = "fastmap-service-";
/// Attempts to make it: another service that starts may take a new one for a dead service's.
const ATTEMPTS: u32 = 10;

/// The folder of this process, if there is one.
static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();

/// The temporary folder of this process, until it is dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _lock: Lock,
}

impl Scratch {
    /// Removes the folders of dead services, and makes one that is this process's temporary folder from now
    /// on (TMPDIR). To be called before there is a second thread.
    ///
    /// # Errors
    /// If it can't be made, or if there are other threads.
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
        let _first = FOLDER.set(scratch.folder.path().to_owned());
        // SAFETY: no other thread reads the environment meanwhile, for there is none.
        unsafe { std::env::set_var("TMPDIR", scratch.folder.path()) };
        Ok(scratch)
    }

    fn make(temporary: &Path) -> io::Result<Scratch> {
        let mut builder = tempfile::Builder::new();
        let folder =
            builder.prefix(PREFIX).permissions(Permissions::from_mode(0o700)).tempdir_in(temporary)?;
        let lock = lock(File::open(folder.path())?)?;
        // Locked and there: from now on no other service removes it.
        fs::metadata(folder.path())?;
        Ok(Scratch { folder, _lock: lock })
    }

    /// Lets other users pass through this process's folder, not look at what is in it: where workers' users
    /// must look up the paths of programs and sockets.
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

/// Removes the folders of services that are dead: a living one holds its lock.
fn sweep(temporary: &Path) {
    let own = Uid::effective().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let named = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == 6));
        // Of this user alone, and no link: others may write to the folder.
        let ours = named && fs::symlink_metadata(entry.path()).is_ok_and(|it| it.is_dir() && it.uid() == own);
        if !ours {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        // Held until it is gone: a service that has just made it would lock it meanwhile, and lose it.
        if let Ok(_held) = lock(folder) {
            let _what_is_left_is_the_next_ones = fs::remove_dir_all(entry.path());
        }
    }
}
