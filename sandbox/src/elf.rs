//! Reads the ELF headers of an executable: its architecture, its loader, and the libraries and versions it
//! needs. The file is never executed, as `ldd` would do with an untrusted file. Called by `jail::libraries`
//! before a program runs, and by the service's gateway at an upload. A file that can't run on this machine is
//! rejected with the reason before it reaches a jail.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use object::elf::{
    self, DT_NEEDED, DT_NULL, DT_STRSZ, DT_STRTAB, ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID, VER_FLG_WEAK,
};
use object::endian::LittleEndian;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::read::{ReadCache, ReadRef, StringTable};

/// Limit of libraries, and of versions of one: more than any program needs.
const MAX_NAMES: usize = 1024;

type Header = FileHeader64<LittleEndian>;

/// Commands that build a program without loader and libraries.
const STATICALLY: &str = if cfg!(target_arch = "aarch64") {
    "rustup target add aarch64-unknown-linux-musl, then cargo build --release --target aarch64-unknown-linux-musl"
} else {
    "rustup target add x86_64-unknown-linux-musl, then cargo build --release --target x86_64-unknown-linux-musl"
};

/// The reason why this machine can't run a file. The message is meant for the sender of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// A script for an interpreter.
    #[error("the file is a script (it begins with #!), not an executable; send the compiled program")]
    Script,
    /// Not an ELF file.
    #[error("the file is not an executable for Linux (no ELF file)")]
    NotElf,
    /// An ELF file, but not a 64-bit little-endian program.
    #[error("the file is not a program for 64-bit Linux: {0}")]
    Kind(String),
    /// Built for another architecture.
    #[error(
        "the executable is for {found}, and the workers of this machine are {host}; build it for {host}-unknown-linux-gnu"
    )]
    Architecture {
        /// The executable's architecture.
        found: String,
        /// This machine's architecture.
        host: &'static str,
    },
    /// Its headers contradict themselves.
    #[error("the executable is damaged: {0}")]
    Damaged(String),
    /// Its loader does not exist on this machine, or is not available in jails.
    #[error(
        "the executable asks for the loader {loader}, and jails here have {known}; link it for one of these, or \
         statically, which needs no loader: {STATICALLY}"
    )]
    Loader {
        /// The requested path.
        loader: String,
        /// Paths of the loaders that a jail can have.
        known: String,
    },
    /// A library is missing on this machine.
    #[error(
        "the executable needs the library {library} (for {wanted_by}), which this machine does not have; link it \
         statically: {STATICALLY}"
    )]
    Library {
        /// Its name.
        library: String,
        /// The file that names it.
        wanted_by: String,
    },
    /// A library is too old on this machine.
    #[error(
        "the executable needs {version} of {library}, and this machine has {newest}; build it on an older system, or \
         without the system's C library: {STATICALLY}"
    )]
    Version {
        /// The library.
        library: String,
        /// The required version, for example `GLIBC_2.39`.
        version: String,
        /// The newest available version of that family.
        newest: String,
    },
}

/// The headers of an executable or a library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// The requested loader; `None` if linked statically.
    pub interpreter: Option<PathBuf>,
    /// Names of the libraries that it needs directly.
    pub needed: Vec<String>,
    /// Required versions of each library.
    pub versions: BTreeMap<String, Vec<String>>,
    /// Versions that it provides, if it is a library.
    pub offers: Vec<String>,
    /// The linker's build id.
    pub build_id: Option<Vec<u8>>,
    /// Whether it has a loadable segment and an entry point; most libraries have no entry point.
    pub begins: bool,
}

impl Elf {
    /// Reads the headers of a file's bytes. The bytes may be anything.
    ///
    /// # Errors
    /// If the file is not a program or library for this machine's architecture, or is inconsistent.
    pub fn parse<'a>(data: impl ReadRef<'a>) -> Result<Elf, ElfError> {
        let header = header(data)?;
        let endian = LittleEndian;
        let damaged = |error: object::read::Error| ElfError::Damaged(error.to_string());
        let segments = header.program_headers(endian, data).map_err(damaged)?;
        let loaded = segments.iter().any(|segment| segment.p_type.get(endian) == elf::PT_LOAD);
        let mut elf = Elf { begins: loaded && header.e_entry.get(endian) != 0, ..Elf::default() };
        let mut dynamic = None;
        for segment in segments {
            if let Some(path) = segment.interpreter(endian, data).map_err(damaged)? {
                elf.interpreter = Some(text(path, "the loader's name")?.into());
            }
            if let Some(entries) = segment.dynamic(endian, data).map_err(damaged)? {
                dynamic = Some(entries);
            }
            // Padding may follow the last note. Like the kernel, stop at the first unreadable note.
            let mut notes = segment.notes(endian, data).map_err(damaged)?;
            while let Some(Ok(Some(note))) = notes.as_mut().map(object::read::elf::NoteIterator::next) {
                if note.name() == ELF_NOTE_GNU
                    && note.n_type(endian) == NT_GNU_BUILD_ID
                    && !note.desc().is_empty()
                {
                    elf.build_id.get_or_insert_with(|| note.desc().to_vec());
                }
            }
        }
        if let Some(entries) = dynamic {
            elf.needed = needed(segments, entries, data)?;
        }
        let sections = header.sections(endian, data).map_err(damaged)?;
        if let Some((mut needs, link)) = sections.gnu_verneed(endian, data).map_err(damaged)? {
            let strings = sections.strings(endian, data, link).map_err(damaged)?;
            while let Some((need, mut each)) = needs.next().map_err(damaged)? {
                let library = text(need.file(endian, strings).map_err(damaged)?, "a library's name")?;
                let versions = elf.versions.entry(library.to_owned()).or_default();
                while let Some(version) = each.next().map_err(damaged)? {
                    // A weak version is optional.
                    if version.vna_flags.get(endian).0 & VER_FLG_WEAK.0 == 0 {
                        versions.push(
                            text(version.name(endian, strings).map_err(damaged)?, "a version")?.to_owned(),
                        );
                    }
                    check_count(versions.len())?;
                }
                check_count(elf.versions.len())?;
            }
        }
        if let Some((mut offers, link)) = sections.gnu_verdef(endian, data).map_err(damaged)? {
            let strings = sections.strings(endian, data, link).map_err(damaged)?;
            while let Some((_, mut names)) = offers.next().map_err(damaged)? {
                // The first name is its own, the others are those of its parents.
                if let Some(name) = names.next().map_err(damaged)? {
                    elf.offers
                        .push(text(name.name(endian, strings).map_err(damaged)?, "a version")?.to_owned());
                }
                check_count(elf.offers.len())?;
            }
        }
        Ok(elf)
    }

    /// Checks that `library`, to be used for `name`, has all versions that this file needs.
    ///
    /// # Errors
    /// Names the newest missing version: a library that has it has the others.
    pub fn accepts(&self, name: &str, library: &Elf) -> Result<(), ElfError> {
        let missing = |version: &&String| !library.offers.is_empty() && !library.offers.contains(version);
        let needed = self.versions.get(name).into_iter().flatten();
        let Some(version) = needed.filter(missing).max_by_key(|version| numbers(version)) else {
            return Ok(());
        };
        let of_family = library.offers.iter().filter(|offer| family(offer) == family(version));
        let newest = of_family.max_by_key(|offer| numbers(offer));
        Err(ElfError::Version {
            library: name.to_owned(),
            version: version.clone(),
            newest: newest.map_or_else(|| "none of that kind".to_owned(), |newest| format!("up to {newest}")),
        })
    }
}

/// Checks the file header: that this is a 64-bit program for this machine.
fn header<'a>(data: impl ReadRef<'a>) -> Result<&'a Header, ElfError> {
    let begins = |with: &[u8]| data.read_bytes_at(0, with.len() as u64) == Ok(with);
    if begins(b"#!") {
        return Err(ElfError::Script);
    }
    if !begins(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    if data.read_bytes_at(4, 2) != Ok(&[elf::ELFCLASS64.0, elf::ELFDATA2LSB.0]) {
        return Err(ElfError::Kind("it is of 32 bits, or big-endian".to_owned()));
    }
    let header = Header::parse(data).map_err(|error| ElfError::Damaged(error.to_string()))?;
    let kind = header.e_type.get(LittleEndian);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(ElfError::Kind("it is an object file or a core dump".to_owned()));
    }
    let machine = header.e_machine.get(LittleEndian);
    let host = if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
    if machine != host {
        let found = match machine {
            elf::EM_X86_64 => "x86_64".to_owned(),
            elf::EM_AARCH64 => "aarch64".to_owned(),
            elf::EM_RISCV => "riscv64".to_owned(),
            other => format!("machine number {}", other.0),
        };
        return Err(ElfError::Architecture { found, host: std::env::consts::ARCH });
    }
    Ok(header)
}

/// Returns the libraries named in the dynamic section, which the loader will look for.
fn needed<'a>(
    segments: &[elf::ProgramHeader64<LittleEndian>],
    entries: &[elf::Dyn64<LittleEndian>],
    data: impl ReadRef<'a>,
) -> Result<Vec<String>, ElfError> {
    let endian = LittleEndian;
    let (mut table, mut size, mut names) = (0, 0, Vec::new());
    for entry in entries.iter().take_while(|entry| entry.d_tag(endian) != DT_NULL) {
        match entry.d_tag(endian) {
            DT_STRTAB => table = entry.d_val(endian),
            DT_STRSZ => size = entry.d_val(endian),
            DT_NEEDED => names.push(entry.d_val(endian)),
            _ => {}
        }
    }
    check_count(names.len())?;
    let loaded = segments.iter().filter(|segment| segment.p_type.get(endian) == elf::PT_LOAD);
    let mut loaded = loaded.map(|segment| segment.data_range(endian, data, table, size).ok().flatten());
    let strings = loaded.find_map(|strings| strings).unwrap_or_default();
    let strings = StringTable::new(strings, 0, strings.len() as u64);
    names
        .into_iter()
        .map(|name| {
            let name = u32::try_from(name).ok().and_then(|name| strings.get(name).ok());
            let name = name.ok_or_else(|| ElfError::Damaged("a library's name is missing".to_owned()))?;
            text(name, "a library's name").map(str::to_owned)
        })
        .collect()
}

/// Checks a name: short, printable, without spaces. Names are untrusted and are used in messages and command
/// lines.
fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, ElfError> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if text.is_empty() || text.len() > 255 || text.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(ElfError::Damaged(format!("{what} is not a name")));
    }
    Ok(text)
}

fn check_count(count: usize) -> Result<(), ElfError> {
    if count > MAX_NAMES {
        Err(ElfError::Damaged(format!("more than {MAX_NAMES} names of one kind")))
    } else {
        Ok(())
    }
}

/// Returns the family of a version: `GLIBC` for `GLIBC_2.36`.
pub(crate) fn family(version: &str) -> &str {
    version.split('_').next().unwrap_or_default()
}

/// Returns a version's numbers, so that `GLIBC_2.9` sorts before `GLIBC_2.36`.
pub(crate) fn numbers(version: &str) -> Vec<u32> {
    version.split(['_', '.']).filter_map(|part| part.parse().ok()).collect()
}

/// Reads a file's headers only, because the file may be large.
///
/// # Errors
/// As [`Elf::parse`]; an unreadable file counts as damaged.
pub fn read(path: &Path) -> Result<Elf, ElfError> {
    let file = File::open(path).map_err(|error| ElfError::Damaged(format!("{}: {error}", path.display())))?;
    Elf::parse(&ReadCache::new(file))
}

/// Reads the headers of a file that must be a program.
///
/// # Errors
/// As [`read`]; also if it is a library, or has no entry point.
pub fn read_program(path: &Path) -> Result<Elf, ElfError> {
    let elf = read(path)?;
    match elf.begins && (elf.interpreter.is_some() || elf.needed.is_empty()) {
        true => Ok(elf),
        false => Err(ElfError::Kind("it is a library, or has nothing to begin with".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readable_files;

    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").expect("this program can be read")
    }

    #[test]
    fn this_program_tells_what_it_needs() {
        let elf = Elf::parse(own().as_slice()).expect("it runs here");
        assert!(elf.interpreter.is_some());
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")), "{elf:?}");
        assert!(elf.versions.values().flatten().any(|version| version.starts_with("GLIBC_2.")), "{elf:?}");
        assert!(elf.build_id.is_some() && elf.begins);
    }

    #[test]
    fn what_is_no_program_for_this_machine_is_refused_by_name() {
        assert_eq!(Elf::parse(&b"#!/bin/sh\necho\n"[..]), Err(ElfError::Script));
        assert_eq!(Elf::parse(&b"MZ is another system"[..]), Err(ElfError::NotElf));
        assert_eq!(Elf::parse(&b""[..]), Err(ElfError::NotElf));
        let mut other = own();
        other[18..20].copy_from_slice(&elf::EM_RISCV.0.to_le_bytes());
        let error = Elf::parse(other.as_slice()).expect_err("no machine of ours").to_string();
        assert!(error.contains("for riscv64"), "{error}");
        let mut narrow = own();
        narrow[4] = elf::ELFCLASS32.0;
        assert!(matches!(Elf::parse(narrow.as_slice()), Err(ElfError::Kind(_))));
        let libraries = readable_files::LIBRARIES.map(|folder| Path::new(folder).join("libm.so.6"));
        if let Some(library) = libraries.iter().find(|path| path.exists()) {
            assert!(read_program(library).expect_err("a library").to_string().contains("a library"));
        }
    }

    #[test]
    fn a_missing_version_is_named_beside_the_newest_that_is_here() {
        let mut program = Elf::default();
        program
            .versions
            .insert("libc.so.6".to_owned(), vec!["GLIBC_2.4".to_owned(), "GLIBC_2.99".to_owned()]);
        let offers = ["libc.so.6", "GLIBC_2.4", "GLIBC_2.36", "GLIBC_2.9"].map(str::to_owned).to_vec();
        let library = Elf { offers, ..Elf::default() };
        let error = program.accepts("libc.so.6", &library).expect_err("2.99 is not there").to_string();
        assert!(error.contains("needs GLIBC_2.99 of libc.so.6"), "{error}");
        assert!(error.contains("has up to GLIBC_2.36"), "{error}");
        assert_eq!(program.accepts("libm.so.6", &library), Ok(()));
    }

    #[test]
    fn damaged_files_are_answered_and_never_panicked_at() {
        let own = own();
        // A fixed sequence, so that a failure can be reproduced.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..2_000 {
            let mut damaged = own[..own.len().min(64 + random() % 40_000)].to_vec();
            for _ in 0..8 {
                let at = random() % damaged.len().min(4096);
                damaged[at] = random() as u8;
            }
            let _answered = Elf::parse(damaged.as_slice());
        }
    }
}
