//! Places an untrusted program where a worker's user can start it: at its own path if possible, else as a
//! link or copy in a new folder.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use tempfile::TempDir;

use super::{Jail, wait_for_writers};

/// Random letters in a folder's name: too many for another user of the machine to guess.
const RANDOM_LETTERS: usize = 24;

/// A program that the workers of a [`Jail`] can start while this value lives.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Program {
    /// The program's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Jail {
    /// Returns the program at `path` where workers can start it. It is copied (or linked) only if its file
    /// system is mounted noexec, if others may not execute it, or if it is below a folder that the workers'
    /// user can't enter and this process may not mount.
    ///
    /// # Errors
    /// If it can't be copied, or if the temporary folder is mounted noexec as well.
    pub fn program(&self, path: &Path) -> io::Result<Program> {
        let path = fs::canonicalize(path)?;
        if self.can_start_in_place(&path)? {
            return Ok(Program { path, _folder: None });
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix("program-").rand_bytes(RANDOM_LETTERS);
        let folder = builder.permissions(Permissions::from_mode(0o700)).tempdir()?;
        if self.looks_up() {
            // A worker that knows the name can enter the folder, and other users can't list it. (The umask of
            // this process would clear the bit at creation.)
            fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
        }
        let inside = folder.path().join("program");
        let executable = fs::metadata(&path)?.mode() & 0o005 == 0o005;
        let linked = executable && fs::hard_link(&path, &inside).is_ok();
        if !linked {
            fs::copy(&path, &inside)?;
            fs::set_permissions(&inside, Permissions::from_mode(0o555))?;
            wait_for_writers(&inside)?;
        }
        if is_noexec(&inside)? {
            return Err(io::Error::other(format!(
                "the temporary folder {} (TMPDIR) is mounted noexec; set TMPDIR to one that is not",
                std::env::temp_dir().display()
            )));
        }
        if self.looks_up()
            && let Some(closed) = closed_above(&inside)
        {
            return Err(io::Error::other(format!(
                "workers' users can't enter {}; set TMPDIR to a folder that they can reach, or give the service \
                 CAP_SYS_ADMIN",
                closed.display()
            )));
        }
        Ok(Program { path: inside, _folder: Some(folder) })
    }

    /// Returns whether workers can start the file at its own path.
    fn can_start_in_place(&self, path: &Path) -> io::Result<bool> {
        if is_noexec(path)? {
            return Ok(false);
        }
        // Without root, workers run as the service's own user.
        let executable = !self.root || fs::metadata(path)?.mode() & 0o005 == 0o005;
        Ok(executable && (!self.looks_up() || closed_above(path).is_none()))
    }
}

fn is_noexec(path: &Path) -> io::Result<bool> {
    Ok(statvfs(path)?.flags().contains(FsFlags::ST_NOEXEC))
}

/// Returns the nearest folder above the file that not every user may enter.
fn closed_above(path: &Path) -> Option<PathBuf> {
    let closed = |folder: &&Path| !fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 != 0);
    path.ancestors().skip(1).find(closed).map(Path::to_owned)
}
