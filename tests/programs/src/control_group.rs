//! A control group for a test.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::until;

/// A control group of this process; removed at the end, by which its processes must have ended.
#[derive(Debug)]
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// A new one in this group.
    ///
    /// # Errors
    /// If this user may make none there.
    pub fn new(parent: &Path) -> io::Result<ControlGroup> {
        let path = parent.join(format!("fastmap-test-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(ControlGroup(path))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// If the controller is not there, or takes no such value.
    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(file), value)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        until("the group is empty", Duration::from_secs(10), || {
            fs::remove_dir(&self.0).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
        });
    }
}
