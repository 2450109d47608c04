//! A job's encoded context: bytes, or, if it is large, a sealed memory file that all workers map. Written
//! once by the adapter through a [`ContextWriter`], or read from a file by the service's agent; passed to the
//! workers by `local`. No process can change a sealed file, not even its creator, so a worker can read it in
//! place.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Minimum size of contexts in memory files; smaller ones are sent through the workers' channels.
const MIN_FILE_BYTES: usize = 1 << 20;

/// An encoded context. Cheap to clone; dereferences to its bytes.
#[derive(Clone)]
pub struct Context(Arc<Storage>);

enum Storage {
    Bytes(Vec<u8>),
    File(Sealed),
}

impl Context {
    /// Creates a writer for a context that is encoded piece by piece.
    pub fn writer() -> ContextWriter {
        ContextWriter { buffer: Vec::new(), file: None, files_available: true }
    }

    /// Copies the content of a file, which may be removed or changed afterwards.
    ///
    /// # Errors
    /// If it can't be read, or there is not enough memory.
    pub fn read(path: &Path) -> io::Result<Context> {
        let mut from = File::open(path)?;
        let mut writer = Context::writer();
        if from.metadata()?.len() >= MIN_FILE_BYTES as u64 {
            writer.create_file()?;
        }
        match &mut writer.file {
            // The kernel copies it without a user-space buffer.
            Some(to) => io::copy(&mut from, to)?,
            None => io::copy(&mut from, &mut writer)?,
        };
        writer.finish()
    }

    /// The file to pass to workers; `None` if the context is small.
    pub(crate) fn file(&self) -> Option<&File> {
        match &*self.0 {
            Storage::File(sealed) => Some(&sealed.file),
            Storage::Bytes(_) => None,
        }
    }
}

impl Deref for Context {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Storage::Bytes(bytes) => bytes,
            Storage::File(sealed) => sealed.bytes(),
        }
    }
}

impl From<Vec<u8>> for Context {
    fn from(bytes: Vec<u8>) -> Self {
        Context(Arc::new(Storage::Bytes(bytes)))
    }
}

impl Default for Context {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.file().is_some() { "file" } else { "bytes" };
        write!(f, "Context({} {kind})", self.len())
    }
}

/// Collects the bytes of a context, and moves them to a memory file once they are many: there is never a
/// second copy.
#[derive(Debug)]
pub struct ContextWriter {
    /// Bytes that are not in the file yet.
    buffer: Vec<u8>,
    file: Option<File>,
    /// Whether memory files are available.
    files_available: bool,
}

impl ContextWriter {
    /// Appends a byte.
    ///
    /// # Errors
    /// As [`Write::write_all`].
    #[inline]
    pub fn push(&mut self, byte: u8) -> io::Result<()> {
        if self.buffer.len() >= MIN_FILE_BYTES {
            self.spill()?;
        }
        self.buffer.push(byte);
        Ok(())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// If there is not enough memory.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > MIN_FILE_BYTES {
            self.spill()?;
            if let Some(file) = self.file.as_mut().filter(|_| bytes.len() >= MIN_FILE_BYTES / 2) {
                return file.write_all(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Moves the buffer to the file, if one can be created.
    #[cold]
    fn spill(&mut self) -> io::Result<()> {
        self.create_file()?;
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Creates the file. If that fails, the bytes stay in the buffer.
    fn create_file(&mut self) -> io::Result<()> {
        if self.file.is_some() || !self.files_available {
            return Ok(());
        }
        // A limit on file sizes (RLIMIT_FSIZE) also holds for memory files, and exceeding it raises a deadly
        // signal.
        let unlimited = getrlimit(Resource::RLIMIT_FSIZE)?.0 == RLIM_INFINITY;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        crate::local::fill_standard();
        let created =
            unlimited.then(|| memfd_create("fastmap-context", flags)).transpose().unwrap_or_default();
        self.files_available = created.is_some();
        self.file = created.map(File::from);
        Ok(())
    }

    /// Completes the context.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn finish(mut self) -> io::Result<Context> {
        let Some(mut file) = self.file.take() else { return Ok(self.buffer.into()) };
        file.write_all(&self.buffer)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL))?;
        Ok(Context(Arc::new(Storage::File(Sealed::map(file)?))))
    }
}

impl Write for ContextWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sealed memory file, mapped. Pages that are not read cost this process nothing.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: File,
    /// `None` for an empty file, which can't be mapped.
    map: Option<Mmap>,
}

impl Sealed {
    fn map(file: File) -> io::Result<Sealed> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)?;
        let wanted = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK;
        if !SealFlag::from_bits_retain(seals).contains(wanted) {
            return Err(io::Error::other("the context's file is not sealed"));
        }
        // A private mapping of pages that are never written shares them like a shared one. Linux before the
        // stable releases of 2025 rejects the shared one (EPERM), because it could be made writable later.
        let map = || {
            // SAFETY: the seals checked above prevent every process from writing to the file or truncating
            // it.
            unsafe { MmapOptions::new().map_copy_read_only(&file) }
        };
        let map = (file.metadata()?.len() > 0).then(map).transpose()?;
        Ok(Sealed { file, map })
    }

    /// Worker: maps the received file.
    ///
    /// # Errors
    /// If it is not sealed or can't be mapped.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Sealed> {
        Sealed::map(fd.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(sizes: &[usize]) -> (Context, Vec<u8>) {
        let (mut writer, mut expected) = (Context::writer(), Vec::new());
        for (n, size) in sizes.iter().enumerate() {
            let bytes: Vec<u8> = (0..*size).map(|at| (at ^ (at >> 8) ^ n) as u8).collect();
            writer.extend(&bytes).expect("memory");
            writer.push(n as u8).expect("memory");
            expected.extend(bytes);
            expected.push(n as u8);
        }
        (writer.finish().expect("memory"), expected)
    }

    #[test]
    fn bytes_are_independent_of_the_pieces_and_large_contexts_are_files() {
        let whole = MIN_FILE_BYTES;
        for sizes in [
            &[][..],
            &[10, 20],
            &[whole - 1],
            &[whole],
            &[whole / 2, whole / 2],
            &[3, 2 * whole, 5],
            &[100_000; 40],
        ] {
            let (context, expected) = written(sizes);
            assert!(*context == *expected, "{sizes:?}");
            assert_eq!(context.file().is_some(), expected.len() > MIN_FILE_BYTES, "{sizes:?}");
        }
    }

    #[test]
    fn sealed_contexts_are_immutable() {
        let (context, expected) = written(&[3 * MIN_FILE_BYTES]);
        let file = context.file().expect("it is large");
        let again = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            file.as_raw_fd()
        }));
        let mut again = again.expect("it can be opened again");
        assert!(again.write_all(b"x").is_err());
        assert!(again.set_len(0).is_err() && again.set_len(1 << 30).is_err());
        // SAFETY: the mapping is rejected.
        assert!(unsafe { memmap2::MmapMut::map_mut(&again) }.is_err());
        assert!(*context == *expected);
        let opened = Sealed::open(file.try_clone().expect("a descriptor").into()).expect("it is sealed");
        assert!(opened.bytes() == expected);
        let open = memfd_create("open", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
        assert!(Sealed::open(open.expect("memory")).is_err());
    }

    #[test]
    fn files_are_read_into_memory_files() {
        let path = std::env::temp_dir().join(format!("fastmap-context-{}", std::process::id()));
        for size in [0, 1000, MIN_FILE_BYTES, 3 * MIN_FILE_BYTES + 1] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).expect("room on the disk");
            let context = Context::read(&path).expect("memory");
            std::fs::remove_file(&path).expect("it is there");
            assert!(*context == *bytes);
            assert_eq!(context.file().is_some(), size >= MIN_FILE_BYTES);
        }
    }
}
