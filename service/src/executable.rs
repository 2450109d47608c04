//! Check of an uploaded file: whether it is a program that this machine could start, without running or believing it.
//! Called by the gateway when an upload is whole; what only the machine that runs it knows (libraries, versions)
//! comes when a run is opened. `fastmap_sandbox::elf` does the reading.

use std::fmt::Debug;
use std::path::Path;

use fastmap_backends::cloud::hexadecimal;
use fastmap_sandbox::elf::{self, ElfError};

/// Checks an uploaded executable for the machine that will run it.
pub trait Examine: Send + Sync + Debug {
    /// Whether it finds its loader and libraries here, in the versions that it needs. Nothing is run.
    ///
    /// # Errors
    /// In words for the client that has sent it.
    fn examine(&self, executable: &Path) -> Result<(), ElfError>;
}

/// Looks at a file that hashes to `hash`; gives what its workers will say that they are.
///
/// # Errors
/// Why it can't run here, in words for who sent it.
pub(crate) fn check_executable(path: &Path, hash: &str) -> Result<String, ElfError> {
    let build_id = elf::read_program(path)?.build_id;
    // As a worker computes it, see fastmap_backends::identity.
    Ok(build_id.map_or_else(|| format!("sha256:{hash}"), |id| format!("build-id:{}", hexadecimal(&id))))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn refused(bytes: &[u8]) -> String {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("room on the disk");
        check_executable(file.path(), "00").expect_err("it can't run").to_string()
    }

    #[test]
    fn a_program_is_what_its_own_workers_say() {
        let this = std::env::current_exe().expect("a path");
        assert_eq!(check_executable(&this, "00").as_deref(), Ok(fastmap_backends::identity()));
    }

    #[test]
    fn what_can_not_run_here_is_refused_in_words() {
        let this = std::fs::read(std::env::current_exe().expect("a path")).expect("it can be read");
        let changed = |at: usize, byte: u8| {
            let mut bytes = this.clone();
            bytes[at] = byte;
            refused(&bytes)
        };
        assert!(refused(b"#!/bin/sh\necho no\n").contains("script"));
        assert!(refused(b"").contains("no ELF"));
        assert!(refused(&this[..100]).contains("damaged"));
        assert!(changed(4, 1).contains("64-bit"));
        assert!(changed(5, 2).contains("big-endian"));
        assert!(changed(18, 40).contains("build it for"));
        assert!(changed(16, 1).contains("object file"));
    }
}
