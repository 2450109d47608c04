//! Files and folders that are for the service's user alone. What was there before is closed to others, or
//! refused: in it are names, balances, uploads and answers. Called by whatever opens the service's folders
//! and its database.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::unistd::Uid;

/// Bits of a mode that let users in that are not the owner, and those of any user.
const OTHERS: u32 = 0o077;
const ALL: u32 = 0o007;

/// Makes a folder, and those above it, or closes the one that is there.
///
/// # Errors
/// If it can't be made, or is open to others and not this user's to close.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    close(path, 0o700)
}

/// Makes an empty file, or closes the one that is there.
///
/// # Errors
/// As [`folder`].
pub fn file(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    close(path, 0o600)
}

/// Closes what is there, if it is.
///
/// # Errors
/// As [`folder`].
pub fn file_if_there(path: &Path) -> io::Result<()> {
    if path.exists() { close(path, 0o600) } else { Ok(()) }
}

fn close(path: &Path, mode: u32) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if found.mode() & OTHERS == 0 {
        return Ok(());
    }
    let own = Uid::effective();
    if own.is_root() || found.uid() == own.as_raw() {
        return fs::set_permissions(path, Permissions::from_mode(mode));
    }
    // A group may: so come volumes that root has mounted for a service.
    if found.mode() & ALL == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "others may look into {} (mode {:04o}), and it is user {}'s to close: say there: chmod o= {0}",
        path.display(),
        found.mode() & 0o7777,
        found.uid()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn what_was_open_is_closed_and_what_is_made_is_born_closed() {
        let above = tempfile::tempdir().expect("a folder");
        let (new, old) = (above.path().join("a/b"), above.path().join("old"));
        folder(&new).expect("it is ours");
        fs::create_dir(&old).expect("a folder");
        fs::set_permissions(&old, Permissions::from_mode(0o755)).expect("it is ours");
        folder(&old).expect("it is ours");
        assert_eq!((mode(&new), mode(&old)), (0o700, 0o700));
        let (new, old) = (new.join("file"), old.join("file"));
        file(&new).expect("it is ours");
        fs::write(&old, "kept").expect("room");
        fs::set_permissions(&old, Permissions::from_mode(0o664)).expect("it is ours");
        file(&old).expect("it is ours");
        assert_eq!((mode(&new), mode(&old)), (0o600, 0o600));
        assert_eq!(fs::read(&old).expect("it is ours"), b"kept");
        file_if_there(&above.path().join("none")).expect("nothing to do");
    }
}
