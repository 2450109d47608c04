//! Checks that starting this process's executable again would enter fastmap. Called before the first worker
//! is started. It would not enter fastmap in two cases: fastmap is in a library that another program has
//! loaded (an extension of an interpreter, a plugin), or the loader was started with the program as its
//! argument. Also finds the path by which the executable is started.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::execution::function;
use crate::execution::mappings::{Object, build_id, objects};

/// Refers to the very file that runs, even if another build has replaced it at its path.
const EXE_LINK: &str = "/proc/self/exe";

/// The path by which this process's executable can be opened and started again.
///
/// It is the kernel's link, except under an interpreter of programs (valgrind, a processor emulator). There
/// the link refers to the interpreter, which answers `readlink` with the path of the program.
pub(crate) fn executable_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| path_under_interpreter().unwrap_or_else(|| EXE_LINK.into()))
}

/// The path of this program, if the kernel's link refers to another file.
fn path_under_interpreter() -> Option<PathBuf> {
    let named = std::fs::read_link(EXE_LINK).ok()?;
    let [by_link, by_name] = [Path::new(EXE_LINK), &named].map(|path| std::fs::metadata(path).ok());
    let [by_link, by_name] = [by_link?, by_name?].map(|file| (file.dev(), file.ino()));
    let file = File::open(&named).ok()?;
    (by_link != by_name && is_loaded_from(&file, objects().first()?)).then_some(named)
}

/// Returns whether an object was loaded from this file, judged by its program headers and build id.
fn is_loaded_from(file: &File, object: &Object) -> bool {
    headers_of(file)
        .is_some_and(|headers| headers == object.headers && build_id_of(file, &headers) == object.build_id)
}

/// Checks that this process's executable can be started as a worker.
///
/// # Errors
/// Describes why another program would be started.
pub fn startable() -> Result<(), &'static str> {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    let outcome = OUTCOME.get_or_init(|| {
        let objects = objects();
        match objects.iter().position(Object::holds_anchor) {
            None | Some(0) => check_not_started_by_loader(&objects),
            Some(own) if is_linked(&objects, own) => Ok(()),
            Some(own) => Err(library_error(&objects[own])),
        }
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(why) => Err(why),
    }
}

impl Object {
    fn holds_anchor(&self) -> bool {
        self.holds(function::anchor(), size_of::<u64>())
    }
}

fn running_path() -> String {
    std::fs::read_link(EXE_LINK).map_or_else(|_| "?".to_owned(), |path| path.display().to_string())
}

fn library_error(library: &Object) -> String {
    format!(
        "fastmap can't start workers here: it is in the shared library {}, which {} has loaded, and a worker is the \
         program's executable started again, which would not come to the library; do the map in an executable of \
         your own, which enters fastmap, and start that as a process",
        library.name,
        running_path()
    )
}

/// Returns whether the executable is linked with the library, directly or through others: the restarted
/// executable then has it, too.
fn is_linked(objects: &[Object], library: usize) -> bool {
    let mut linked = vec![false; objects.len()];
    let mut queue = vec![0];
    while let Some(at) = queue.pop() {
        for needed in &objects[at].needed {
            let found = objects.iter().position(|object| object.is_named(needed));
            if let Some(found) = found.filter(|found| !std::mem::replace(&mut linked[*found], true)) {
                queue.push(found);
            }
        }
    }
    linked[library]
}

impl Object {
    /// Returns whether `needed`, a name in another object's list of libraries, means this object.
    fn is_named(&self, needed: &str) -> bool {
        let file = |name: &str| Path::new(name).file_name().map(std::ffi::OsStr::to_owned);
        self.shared_name.as_deref() == Some(needed)
            || (!needed.is_empty() && file(&self.name) == file(needed))
    }
}

/// # Errors
/// If the running file is not the program but another loaded object: the program's loader.
fn check_not_started_by_loader(objects: &[Object]) -> Result<(), String> {
    // If the file can't be read, starting it will fail with an error of its own.
    let Some(headers) = File::open(executable_path()).ok().and_then(|file| headers_of(&file)) else {
        return Ok(());
    };
    let (program, others) = objects.split_first().ok_or("no object is loaded")?;
    if program.headers == headers || !others.iter().any(|other| other.headers == headers) {
        return Ok(());
    }
    let name = std::env::args_os().next().unwrap_or_default();
    Err(format!(
        "fastmap can't start workers here: this program was started by its loader ({}), which the kernel takes for the \
         program and would start again in its place; start {} itself (libraries beside it are found by \
         LD_LIBRARY_PATH or an rpath, another loader by `patchelf --set-interpreter`), or name the executable of the \
         workers: Options::backend with a Local whose LocalOptions::program is its path",
        running_path(),
        name.display()
    ))
}

/// Reads the program headers of an ELF file of this machine's class; the process has the same bytes in
/// memory.
fn headers_of(file: &File) -> Option<Vec<u8>> {
    #[cfg(target_pointer_width = "64")]
    type Header = libc::Elf64_Ehdr;
    #[cfg(target_pointer_width = "32")]
    type Header = libc::Elf32_Ehdr;
    let mut head = [0; size_of::<Header>()];
    file.read_exact_at(&mut head, 0).ok()?;
    // SAFETY: plain numbers, for which any bytes are valid.
    let head: Header = unsafe { head.as_ptr().cast::<Header>().read_unaligned() };
    let mut headers = vec![0; usize::from(head.e_phnum) * usize::from(head.e_phentsize)];
    #[allow(clippy::useless_conversion, reason = "it is a smaller number on other machines")]
    file.read_exact_at(&mut headers, u64::from(head.e_phoff)).ok()?;
    Some(headers)
}

/// Reads the build id of an ELF file with these program headers.
fn build_id_of(file: &File, headers: &[u8]) -> Option<Vec<u8>> {
    #[cfg(target_pointer_width = "64")]
    type Header = libc::Elf64_Phdr;
    #[cfg(target_pointer_width = "32")]
    type Header = libc::Elf32_Phdr;
    headers.chunks_exact(size_of::<Header>()).find_map(|header| {
        // SAFETY: plain numbers, for which any bytes are valid.
        let header = unsafe { header.as_ptr().cast::<Header>().read_unaligned() };
        let size = header.p_filesz as usize;
        if header.p_type != libc::PT_NOTE || size > MAX_NOTES {
            return None;
        }
        let mut notes = vec![0; size];
        #[allow(clippy::useless_conversion, reason = "it is a smaller number on other machines")]
        file.read_exact_at(&mut notes, u64::from(header.p_offset)).ok()?;
        build_id(&notes)
    })
}

/// Maximum bytes of an object's notes; linkers write less than a hundred.
const MAX_NOTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_program_is_startable_and_its_headers_match_its_file() {
        assert_eq!(startable(), Ok(()));
        let file = File::open(executable_path()).expect("this program");
        assert_eq!(headers_of(&file).expect("an executable"), objects()[0].headers);
        assert!(is_loaded_from(&file, &objects()[0]));
        let another = File::open("/bin/sh").expect("a shell");
        assert!(!is_loaded_from(&another, &objects()[0]));
    }

    #[test]
    fn executable_path_is_the_kernel_link() {
        assert_eq!(executable_path(), Path::new(EXE_LINK));
    }

    #[test]
    fn libraries_are_linked_through_chains_of_names() {
        let object = |name: &str, shared_name: Option<&str>, needed: &[&str]| Object {
            name: name.to_owned(),
            shared_name: shared_name.map(str::to_owned),
            needed: needed.iter().map(|name| (*name).to_owned()).collect(),
            ..Object::default()
        };
        let objects = [
            object("", None, &["libone.so.1", "libc.so.6"]),
            object("/lib/libone.so.1.2", Some("libone.so.1"), &["libtwo.so"]),
            object("./libtwo.so", None, &["libone.so.1"]),
            object("/lib/libc.so.6", None, &[]),
            object("/plugins/loaded.so", None, &["libtwo.so"]),
        ];
        let linked = [1, 2, 3, 4].map(|library| is_linked(&objects, library));
        assert_eq!(linked, [true, true, true, false]);
    }

    #[test]
    fn libc_is_linked_by_name() {
        let objects = objects();
        // A static program has no dynamically linked libraries.
        if let Some(library) = objects.iter().position(|object| object.is_named("libc.so.6")) {
            assert!(is_linked(&objects, library), "{objects:?}");
        }
    }
}
