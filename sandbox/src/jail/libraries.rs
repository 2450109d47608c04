//! Finds the files of this machine that an executable needs: its loader and its libraries, found by name in a
//! fixed list of folders. No other file of the machine exists in a jail. Called when the service receives an
//! executable.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use crate::elf::{self, Elf, ElfError};
use crate::readable_files;

/// Loaders that a program may name.
const LOADERS: [&str; 2] = if cfg!(target_arch = "aarch64") {
    ["/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"]
} else {
    ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"]
};

/// An executable that can run on this machine, with the files it needs.
#[derive(Clone, Debug)]
pub struct Executable {
    path: PathBuf,
    elf: Elf,
    files: Vec<PathBuf>,
}

impl Executable {
    /// Reads an executable and finds the files it needs. Nothing is executed.
    ///
    /// # Errors
    /// If it can't run on this machine; the text is meant for its sender.
    pub fn examine(path: &Path) -> Result<Executable, ElfError> {
        let elf = elf::read_program(path)?;
        let mut files = Vec::new();
        if let Some(loader) = &elf.interpreter {
            let known = LOADERS.iter().any(|known| loader == Path::new(known)) && loader.is_file();
            if !known {
                return Err(unknown_loader(loader));
            }
            files.push(loader.clone());
            let musl = loader.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-musl-"));
            files.extend(libraries(&elf, if musl { MUSL } else { GNU })?);
        }
        Ok(Executable { path: path.to_owned(), elf, files })
    }

    /// The executable's own file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of its ELF headers.
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// Loader and libraries, each at the path where the program looks for it.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

fn unknown_loader(loader: &Path) -> ElfError {
    let known: Vec<&str> = LOADERS.into_iter().filter(|known| Path::new(known).is_file()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(" and ") };
    ElfError::Loader { loader: loader.display().to_string(), known }
}

/// Finds all libraries that are needed, directly or by another library, and checks each against those that
/// need it.
fn libraries(program: &Elf, search: Search) -> Result<Vec<PathBuf>, ElfError> {
    let mut found: BTreeMap<String, (PathBuf, Elf)> = BTreeMap::new();
    let mut queue: VecDeque<(String, Elf)> = [("itself".to_owned(), program.clone())].into();
    let mut too_old: Option<ElfError> = None;
    while let Some((wanted_by, elf)) = queue.pop_front() {
        for name in elf.needed.iter().filter(|name| !search.is_built_in(name)) {
            if !found.contains_key(name) {
                let missing = || ElfError::Library { library: name.clone(), wanted_by: wanted_by.clone() };
                let path = search.find(name).ok_or_else(missing)?;
                let library = elf::read(&path)?;
                queue.push_back((name.clone(), library.clone()));
                found.insert(name.clone(), (path, library));
            }
            if let Err(unfit) = elf.accepts(name, &found[name].1)
                && too_old.as_ref().is_none_or(|before| is_newer(&unfit, before))
            {
                too_old = Some(unfit);
            }
        }
    }
    if let Some(unfit) = too_old {
        return Err(unfit);
    }
    Ok(found.into_values().map(|(path, _)| path).collect())
}

/// Returns true if both errors name versions of one family (such as the C library's) and the first is the
/// newer version.
fn is_newer(unfit: &ElfError, before: &ElfError) -> bool {
    match (unfit, before) {
        (ElfError::Version { version, .. }, ElfError::Version { version: before, .. }) => {
            elf::family(version) == elf::family(before) && elf::numbers(version) > elf::numbers(before)
        }
        _ => false,
    }
}

/// A loader's library search in a jail, which has no configuration file with more folders.
#[derive(Clone, Copy)]
struct Search {
    /// Folders in search order.
    folders: &'static [&'static str],
    /// Libraries that the loader itself contains: their names between `lib` and the first dot.
    built_in: &'static [&'static str],
}

const GNU: Search = Search { folders: &readable_files::LIBRARIES, built_in: &[] };
/// Separate folders for musl: libraries in glibc's folders would load a second C library beside it.
const MUSL: Search =
    Search { folders: &["/lib", "/usr/lib"], built_in: &["c", "pthread", "rt", "m", "dl", "util", "xnet"] };

impl Search {
    fn is_built_in(self, name: &str) -> bool {
        let stem = name.strip_prefix("lib").and_then(|name| name.split_once('.'));
        stem.is_some_and(|(stem, _)| self.built_in.contains(&stem))
    }

    /// Rejects names with a folder in them, which would lead out of the listed folders.
    fn find(self, name: &str) -> Option<PathBuf> {
        if name.contains('/') || name.starts_with('.') {
            return None;
        }
        self.folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_found_with_its_loader_and_libraries() {
        let executable = Executable::examine(Path::new("/proc/self/exe")).expect("it runs here");
        let files = executable.files();
        assert!(files.iter().any(|path| path.ends_with("libc.so.6")), "{files:?}");
        assert_eq!(Some(&files[0]), executable.elf().interpreter.as_ref());
    }

    #[test]
    fn no_name_leads_out_of_the_library_folders() {
        for name in ["../etc/passwd", "/etc/passwd", "..", ".", "libnone.so.99"] {
            assert_eq!(GNU.find(name), None, "{name}");
            assert_eq!(MUSL.find(name), None, "{name}");
        }
    }

    #[test]
    fn the_loader_of_musl_is_its_c_library_and_needs_no_file_of_another() {
        for name in ["libc.so", "libc.musl-x86_64.so.1", "libpthread.so.0", "libm.so.6"] {
            assert!(MUSL.is_built_in(name) && !GNU.is_built_in(name), "{name}");
        }
        for name in ["libgcc_s.so.1", "libcrypto.so.3", "c.so", "libc"] {
            assert!(!MUSL.is_built_in(name), "{name}");
        }
        let elf = Elf { needed: vec!["libc.so".to_owned()], ..Elf::default() };
        assert_eq!(libraries(&elf, MUSL), Ok(Vec::new()));
    }

    #[test]
    fn of_several_versions_that_are_missing_the_newest_is_named() {
        let program = |versions: &[&str]| Elf {
            needed: vec!["libc.so.6".to_owned()],
            versions: [("libc.so.6".to_owned(), versions.iter().map(|&v| v.to_owned()).collect())].into(),
            ..Elf::default()
        };
        let unfit = libraries(&program(&["GLIBC_2.98", "GLIBC_2.100", "GLIBC_ABI_NEW", "GLIBC_2.99"]), GNU);
        let text = unfit.expect_err("no such version is here").to_string();
        assert!(text.contains("needs GLIBC_2.100 of libc.so.6"), "{text}");
    }
}
