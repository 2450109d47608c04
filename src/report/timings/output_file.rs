//! The file of a report: opened when the map starts, so that a path that can't be written is reported before any work is
//! done; written when the map is over. Several maps with one path get files of their own.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use fastmap_backends::unpoisoned::LockUnpoisoned;

use crate::error::{Error, ErrorKind};
use crate::report::console::warn;

/// Maps of a process that are recorded under one path: a program that maps in a loop must not fill the folder.
const FILES: u32 = 100;

/// A place for a report.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// `None`: there is none yet, and it can be made.
    file: Option<File>,
    /// A file that can be written anew from its begin; else a pipe or a terminal.
    regular: bool,
    /// It says that the map runs.
    reported: bool,
}

impl Place {
    /// The next file of that path. `None`: there are enough of them.
    ///
    /// # Errors
    /// If it can't be opened.
    pub(crate) fn next(path: &Path) -> Result<Option<Place>, Error> {
        let Some(path) = numbered(path) else { return Ok(None) };
        let cannot = |source: io::Error| {
            let message = format!(
                "the timings can't be written to {} ({source}); name another path by `timings`, or by FASTMAP_TIMINGS",
                path.display()
            );
            Error::new(ErrorKind::Io, message).with_source(source)
        };
        let found = || match open(&path, false) {
            // To make one takes 0.2 ms in a full folder, which is left to who writes.
            Err(error) if error.kind() == io::ErrorKind::NotFound && can_be_made(&path) => Ok((None, true)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Some(open(&path, true)?), true)),
            Err(error) => Err(error),
            Ok(file) => {
                let regular = file.metadata()?.is_file();
                Ok((Some(file), regular))
            }
        };
        let (file, regular) = found().map_err(cannot)?;
        Ok(Some(Place { path, file, regular, reported: false }))
    }

    /// Says in the file that the map has not ended, once.
    pub(crate) fn tell_that_it_runs(&mut self) {
        if self.regular && !std::mem::replace(&mut self.reported, true) {
            let text: &[u8] = if is_json(&self.path) { b"{\"running\":true}\n" } else { RUNNING };
            // A disk that is full is told by the report itself.
            let _ = self.replace(text);
        }
    }

    /// Whether it is a file, which can be written at any time.
    pub(crate) fn is_regular(&self) -> bool {
        self.regular
    }

    /// Whether the report is to be JSON alone.
    pub(crate) fn is_json(&self) -> bool {
        is_json(&self.path)
    }

    /// Writes the report. All results are with the consumer by now: what goes wrong is told by a warning.
    pub(crate) fn write(mut self, report: &str) {
        if let Err(error) = self.replace(report.as_bytes()) {
            if let Some(file) = self.file.filter(|_| self.regular) {
                // Half of it is of no use.
                let _ = file.set_len(0);
            }
            warn(&format!("the timings could not be written to {}: {error}", self.path.display()));
        }
    }

    fn replace(&mut self, text: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path, true)?),
        };
        if !self.regular {
            return file.write_all(text);
        }
        file.rewind()?;
        file.write_all(text)?;
        file.set_len(text.len() as u64)
    }
}

/// An older report is cut where the new one ends: some file systems (ext4) sync what is cut to nothing first, which takes
/// milliseconds.
fn open(path: &Path, make: bool) -> io::Result<File> {
    OpenOptions::new().write(true).create(make).truncate(false).open(path)
}

/// Whether this user may make files where it would be.
fn can_be_made(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: reads the path, which is whole and ends with a zero.
    let may = unsafe {
        libc::faccessat(libc::AT_FDCWD, folder.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS)
    };
    may == 0
}

/// What stands in the file until the map is over.
const RUNNING: &[u8] = b"<!DOCTYPE html><meta charset=\"utf-8\"><title>fastmap timings</title>\
    <p>This map has not ended yet, or its program was killed: the report is written at its end.\n";

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// `timings.html`, then `timings-2.html` and so on, for each path of this process.
fn numbered(path: &Path) -> Option<PathBuf> {
    static TAKEN: LazyLock<Mutex<HashMap<PathBuf, u32>>> = LazyLock::new(Mutex::default);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut taken = TAKEN.lock_unpoisoned();
    let number = taken.entry(absolute).or_insert(0);
    *number = number.saturating_add(1);
    match *number {
        1 => Some(path.to_owned()),
        2..=FILES => {
            let mut name = path.file_stem().unwrap_or_default().to_owned();
            name.push(format!("-{number}"));
            if let Some(extension) = path.extension() {
                name.push(".");
                name.push(extension);
            }
            Some(path.with_file_name(name))
        }
        more => {
            if more == FILES + 1 {
                let path = path.display();
                drop(taken);
                warn(&format!(
                    "{FILES} maps have their timings at {path} by now; those of further maps are not recorded"
                ));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_map_of_a_path_gets_a_file_of_its_own_up_to_a_hundred() {
        let path = Path::new("/nowhere/some.name.html");
        assert_eq!(numbered(path), Some(path.to_owned()));
        assert_eq!(numbered(path), Some(PathBuf::from("/nowhere/some.name-2.html")));
        assert_eq!(numbered(Path::new("/nowhere/none")), Some(PathBuf::from("/nowhere/none")));
        assert_eq!(numbered(Path::new("/nowhere/none")), Some(PathBuf::from("/nowhere/none-2")));
        let further = (2..200).filter_map(|_| numbered(path)).count();
        assert_eq!(further, 98);
    }
}
