//! Whether this process's executable, started again, comes to fastmap: it does not where fastmap is in a library that
//! another program has loaded (an extension of an interpreter, a plugin), nor where the loader was started with the
//! program as its argument. Asked before anything is started. And by which path it is started again.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::execution::function;
use crate::execution::mappings::{Object, build_id, objects};

/// Leads to the very file that runs, also when another build has taken its path meanwhile.
const LINK: &str = "/proc/self/exe";

/// The path by which this process's executable can be opened and started again.
///
/// It is the kernel's link, except in a program that another one interprets (valgrind, an emulator of processors): there the
/// link leads to the interpreter, which answers `readlink` with the path of the program.
pub(crate) fn executable_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| interpreted().unwrap_or_else(|| LINK.into()))
}

/// The path of this program, where the kernel's link leads elsewhere.
fn interpreted() -> Option<PathBuf> {
    let named = std::fs::read_link(LINK).ok()?;
    let [by_link, by_name] = [Path::new(LINK), &named].map(|path| std::fs::metadata(path).ok());
    let [by_link, by_name] = [by_link?, by_name?].map(|file| (file.dev(), file.ino()));
    let file = File::open(&named).ok()?;
    (by_link != by_name && is_of(&file, objects().first()?)).then_some(named)
}

/// Whether a file is the one from which an object was loaded, by its headers and the linker's build id.
fn is_of(file: &File, object: &Object) -> bool {
    headers_of(file)
        .is_some_and(|headers| headers == object.headers && build_id_of(file, &headers) == object.build_id)
}

/// Sees whether workers can be made of this process's executable.
///
/// # Errors
/// In words, if another program would be started.
pub fn startable() -> Result<(), &'static str> {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    let outcome = OUTCOME.get_or_init(|| {
        let objects = objects();
        match objects.iter().position(Object::holds_anchor) {
            None | Some(0) => not_by_its_loader(&objects),
            Some(own) if is_linked(&objects, own) => Ok(()),
            Some(own) => Err(in_a_library(&objects[own])),
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

fn running() -> String {
    std::fs::read_link(LINK).map_or_else(|_| "?".to_owned(), |path| path.display().to_string())
}

fn in_a_library(library: &Object) -> String {
    format!(
        "fastmap can't start workers here: it is in the shared library {}, which {} has loaded, and a worker is the \
         program's executable started again, which would not come to the library; do the map in an executable of \
         your own, which enters fastmap, and start that as a process",
        library.name,
        running()
    )
}

/// Whether the executable itself is linked with that library, directly or by others: started again, it has it, too.
fn is_linked(objects: &[Object], library: usize) -> bool {
    let mut linked = vec![false; objects.len()];
    let mut waiting = vec![0];
    while let Some(at) = waiting.pop() {
        for needed in &objects[at].needed {
            let found = objects.iter().position(|object| object.is_called(needed));
            if let Some(found) = found.filter(|found| !std::mem::replace(&mut linked[*found], true)) {
                waiting.push(found);
            }
        }
    }
    linked[library]
}

impl Object {
    /// Whether `needed`, as an object names what it is linked with, is this one.
    fn is_called(&self, needed: &str) -> bool {
        let file = |name: &str| Path::new(name).file_name().map(std::ffi::OsStr::to_owned);
        self.shared_name.as_deref() == Some(needed)
            || (!needed.is_empty() && file(&self.name) == file(needed))
    }
}

/// # Errors
/// If the file that runs is another loaded object than the program: its loader.
fn not_by_its_loader(objects: &[Object]) -> Result<(), String> {
    // What can't be read can't be started either, which is said then.
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
        running(),
        name.display()
    ))
}

/// The program headers of an ELF file of this machine's kind, which its process has in memory as they are.
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

/// The build id in an ELF file with these program headers.
fn build_id_of(file: &File, headers: &[u8]) -> Option<Vec<u8>> {
    #[cfg(target_pointer_width = "64")]
    type Header = libc::Elf64_Phdr;
    #[cfg(target_pointer_width = "32")]
    type Header = libc::Elf32_Phdr;
    headers.chunks_exact(size_of::<Header>()).find_map(|header| {
        // SAFETY: plain numbers, for which any bytes are valid.
        let header = unsafe { header.as_ptr().cast::<Header>().read_unaligned() };
        let size = header.p_filesz as usize;
        if header.p_type != libc::PT_NOTE || size > MOST_NOTES {
            return None;
        }
        let mut notes = vec![0; size];
        #[allow(clippy::useless_conversion, reason = "it is a smaller number on other machines")]
        file.read_exact_at(&mut notes, u64::from(header.p_offset)).ok()?;
        build_id(&notes)
    })
}

/// Bytes of notes of an object, of which linkers write less than a hundred.
const MOST_NOTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_can_be_started_again_and_its_headers_are_those_of_its_file() {
        assert_eq!(startable(), Ok(()));
        let file = File::open(executable_path()).expect("this program");
        assert_eq!(headers_of(&file).expect("an executable"), objects()[0].headers);
        assert!(is_of(&file, &objects()[0]));
        let another = File::open("/bin/sh").expect("a shell");
        assert!(!is_of(&another, &objects()[0]));
    }

    #[test]
    fn a_program_that_runs_by_itself_is_started_by_the_link_of_the_kernel() {
        assert_eq!(executable_path(), Path::new(LINK));
    }

    #[test]
    fn a_library_is_linked_where_a_chain_of_names_leads_to_it() {
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
    fn loaded_libraries_have_names_and_the_executable_needs_one() {
        let objects = objects();
        // Nothing is linked dynamically in a static program.
        if let Some(library) = objects.iter().position(|object| object.is_called("libc.so.6")) {
            assert!(is_linked(&objects, library), "{objects:?}");
        }
    }
}
