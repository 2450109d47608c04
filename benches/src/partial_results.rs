//! Sections that were measured one after the other, in runs of their own: kept beside the executable until there is one
//! for each workload, and the report can be written. A full run takes longer than a machine stays quiet.

use std::path::PathBuf;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::report::Section;

/// The sections of one build of this executable.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: PathBuf,
}

/// A section as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Which build measured it: figures of two programs are not to stand in one table.
    build: String,
    section: Section,
}

impl Kept {
    /// # Errors
    /// If the folder beside the executable can't be made.
    pub(crate) fn open() -> io::Result<Kept> {
        let folder = std::env::current_exe()?.with_file_name("bench-sections");
        fs::create_dir_all(&folder)?;
        Ok(Kept { folder })
    }

    fn path(&self, workload: &str) -> PathBuf {
        self.folder.join(format!("{workload}.json"))
    }

    /// In place of what was kept of that workload.
    ///
    /// # Errors
    /// If it can't be written.
    pub(crate) fn keep(&self, workload: &str, section: &Section) -> io::Result<()> {
        let entry = Entry { build: build(), section: section.clone() };
        fs::write(self.path(workload), serde_json::to_vec_pretty(&entry)?)
    }

    /// What this build measured of a workload, if it did.
    pub(crate) fn find(&self, workload: &str) -> Option<Section> {
        let entry: Entry = serde_json::from_slice(&fs::read(self.path(workload)).ok()?).ok()?;
        (entry.build == build()).then_some(entry.section)
    }
}

fn build() -> String {
    fastmap::backends::identity().to_owned()
}
