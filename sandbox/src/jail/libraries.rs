//! Which files of this machine an executable needs beside itself: its loader and its libraries, found by name in a fixed
//! list of folders. What else the machine holds does not exist in a jail. Called when an executable is taken in.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use crate::elf::{self, Elf, Unfit};
use crate::world;

/// Loaders that a program may ask for.
const LOADERS: [&str; 2] = if cfg!(target_arch = "aarch64") {
    ["/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"]
} else {
    ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"]
};

/// An executable that can run on this machine, with the files that it needs.
#[derive(Clone, Debug)]
pub struct Executable {
    path: PathBuf,
    elf: Elf,
    files: Vec<PathBuf>,
}

impl Executable {
    /// Reads an executable and finds what it needs. Nothing is run.
    ///
    /// # Errors
    /// In words for who sent it, if it can't run here.
    pub fn examine(path: &Path) -> Result<Executable, Unfit> {
        let elf = elf::read_program(path)?;
        let mut files = Vec::new();
        if let Some(loader) = &elf.interpreter {
            let known = LOADERS.iter().any(|known| loader == Path::new(known)) && loader.is_file();
            if !known {
                return Err(Unfit::Loader(loader.display().to_string()));
            }
            files.push(loader.clone());
            files.extend(libraries(&elf)?);
        }
        Ok(Executable { path: path.to_owned(), elf, files })
    }

    /// The executable's own file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its headers say.
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// Loader and libraries, each at the path where the program will look for it.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// All libraries that are needed, directly or by another one, each checked against who needs it.
fn libraries(program: &Elf) -> Result<Vec<PathBuf>, Unfit> {
    let mut found: BTreeMap<String, (PathBuf, Elf)> = BTreeMap::new();
    let mut waiting: VecDeque<(String, Elf)> = [("itself".to_owned(), program.clone())].into();
    while let Some((wanted_by, elf)) = waiting.pop_front() {
        for name in &elf.needed {
            if !found.contains_key(name) {
                let missing = || Unfit::Library { library: name.clone(), wanted_by: wanted_by.clone() };
                let path = find(name).ok_or_else(missing)?;
                let library = elf::read(&path)?;
                waiting.push_back((name.clone(), library.clone()));
                found.insert(name.clone(), (path, library));
            }
            elf.accepts(name, &found[name].1)?;
        }
    }
    Ok(found.into_values().map(|(path, _)| path).collect())
}

/// A name with a folder in it would lead out of the list: there is none of that name.
fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') || name.starts_with('.') {
        return None;
    }
    world::LIBRARIES.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
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
            assert_eq!(find(name), None, "{name}");
        }
    }
}
