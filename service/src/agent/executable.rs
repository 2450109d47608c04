//! Whether an uploaded file is a program that can run on this machine, without running it or believing it.

use std::fs::File;
use std::path::Path;

use object::elf::{self, FileHeader64, NT_GNU_BUILD_ID};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};

use fastmap_backends::cloud::hexadecimal;

#[cfg(target_arch = "x86_64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_X86_64, "x86-64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (elf::Machine, &str) = (elf::EM_AARCH64, "aarch64");

/// Looks at a file that hashes to `hash`; gives what its workers will say that they are.
///
/// # Errors
/// Says why it can't run here.
pub fn check_executable(path: &Path, hash: &str) -> Result<String, String> {
    let file = File::open(path).map_err(|error| format!("it can't be read: {error}"))?;
    let cache = ReadCache::new(file);
    let build_id = parse(&cache)?;
    // As a worker computes it, see fastmap_backends::identity.
    Ok(build_id.map_or_else(|| format!("sha256:{hash}"), |id| format!("build-id:{}", hexadecimal(&id))))
}

fn parse<'a, R: ReadRef<'a>>(data: R) -> Result<Option<Vec<u8>>, String> {
    let broken = |error: object::Error| format!("its ELF headers are broken: {error}");
    let magic = data.read_bytes_at(0, 5).map_err(|()| "it is no ELF file".to_owned())?;
    if magic[..4] != elf::ELFMAG {
        return Err("it is no ELF file; upload the executable itself".to_owned());
    }
    if elf::FileClass(magic[4]) != elf::ELFCLASS64 {
        return Err(format!("it is no 64-bit program; this service runs {} programs", MACHINE.1));
    }
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(broken)?;
    let endian =
        header.endian().map_err(|_| format!("it is big-endian; this service runs {} programs", MACHINE.1))?;
    let machine = header.e_machine(endian);
    if machine != MACHINE.0 {
        return Err(format!(
            "it is for another processor (ELF machine {}); this service runs {} programs",
            machine.0, MACHINE.1
        ));
    }
    let kind = header.e_type(endian);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN || header.e_entry(endian) == 0 {
        return Err("it is an ELF file, but no executable".to_owned());
    }
    let mut loads = 0;
    let mut build_id = None;
    for segment in header.program_headers(endian, data).map_err(broken)? {
        loads += usize::from(segment.p_type(endian) == elf::PT_LOAD);
        let Some(mut notes) = segment.notes(endian, data).map_err(broken)? else { continue };
        while let Some(note) = notes.next().map_err(broken)? {
            if note.name() == elf::ELF_NOTE_GNU
                && note.n_type(endian) == NT_GNU_BUILD_ID
                && build_id.is_none()
            {
                build_id = Some(note.desc().to_vec());
            }
        }
    }
    match loads {
        0 => Err("it has nothing that could be loaded".to_owned()),
        _ => Ok(build_id),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn check(bytes: &[u8]) -> Result<String, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("room on the disk");
        check_executable(file.path(), "00")
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
            let mut bytes = this[..4096].to_vec();
            bytes[at] = byte;
            check(&bytes).expect_err("it can't run")
        };
        assert!(check(b"#!/bin/sh\necho no\n").expect_err("a script").contains("no ELF"));
        assert!(check(b"").expect_err("nothing").contains("no ELF"));
        assert!(check(&this[..100]).expect_err("a stump").contains("broken"));
        assert!(changed(4, 1).contains("64-bit"));
        assert!(changed(5, 2).contains("big-endian"));
        assert!(changed(18, 40).contains("another processor"));
        assert!(changed(16, 1).contains("no executable"));
    }

    #[test]
    fn broken_headers_never_panic() {
        let this = std::fs::read(std::env::current_exe().expect("a path")).expect("it can be read");
        for at in 0..1024 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut bytes = this[..this.len().min(8192)].to_vec();
                bytes[at] = byte;
                let _either = parse(bytes.as_slice());
            }
        }
    }
}
