//! A job's encoded context: bytes, or, where it is large, a sealed file in memory which all workers map.
//! Written once by the adapter through a [`ContextWriter`], or taken from a file by the service's agent; handed to the
//! workers by `local`. No process can change a sealed file, not even the one that made it, so that a worker reads it in place.

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

/// Contexts from this size on are files in memory; smaller ones go through the workers' channels.
const FILE_FROM: usize = 1 << 20;

/// An encoded context. Cheap to clone; reads as its bytes.
#[derive(Clone)]
pub struct Context(Arc<Kept>);

enum Kept {
    Bytes(Vec<u8>),
    File(Sealed),
}

impl Context {
    /// For a context that is encoded piece by piece.
    pub fn writer() -> ContextWriter {
        ContextWriter { buffer: Vec::new(), file: None, files: true }
    }

    /// The content of a file, which may go or change afterwards.
    ///
    /// # Errors
    /// If it can't be read, or there is no memory for it.
    pub fn read(path: &Path) -> io::Result<Context> {
        let mut from = File::open(path)?;
        let mut writer = Context::writer();
        if from.metadata()?.len() >= FILE_FROM as u64 {
            writer.begin_file()?;
        }
        match &mut writer.file {
            // Within the kernel.
            Some(to) => io::copy(&mut from, to)?,
            None => io::copy(&mut from, &mut writer)?,
        };
        writer.finish()
    }

    /// The file to hand over; `None` where the context is small.
    pub(crate) fn file(&self) -> Option<&File> {
        match &*self.0 {
            Kept::File(sealed) => Some(&sealed.file),
            Kept::Bytes(_) => None,
        }
    }
}

impl Deref for Context {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Kept::Bytes(bytes) => bytes,
            Kept::File(sealed) => sealed.bytes(),
        }
    }
}

impl From<Vec<u8>> for Context {
    fn from(bytes: Vec<u8>) -> Self {
        Context(Arc::new(Kept::Bytes(bytes)))
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

/// Takes the bytes of a context, and puts them into a file in memory once they are many: there is never a second copy.
#[derive(Debug)]
pub struct ContextWriter {
    /// What is not in the file yet.
    buffer: Vec<u8>,
    file: Option<File>,
    /// Memory files are available.
    files: bool,
}

impl ContextWriter {
    /// One more byte.
    ///
    /// # Errors
    /// As [`Write::write_all`].
    #[inline]
    pub fn push(&mut self, byte: u8) -> io::Result<()> {
        if self.buffer.len() >= FILE_FROM {
            self.spill()?;
        }
        self.buffer.push(byte);
        Ok(())
    }

    /// More bytes.
    ///
    /// # Errors
    /// If there is no memory for them.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > FILE_FROM {
            self.spill()?;
            if let Some(file) = self.file.as_mut().filter(|_| bytes.len() >= FILE_FROM / 2) {
                return file.write_all(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Makes room in the buffer, if there is a file to be had.
    #[cold]
    fn spill(&mut self) -> io::Result<()> {
        self.begin_file()?;
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Where no file can be made the bytes stay what they are.
    fn begin_file(&mut self) -> io::Result<()> {
        if self.file.is_some() || !self.files {
            return Ok(());
        }
        // A limit on the size of files holds for those in memory as well, and to pass it is a deadly signal.
        let unlimited = getrlimit(Resource::RLIMIT_FSIZE)?.0 == RLIM_INFINITY;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        crate::local::fill_standard();
        let made = unlimited.then(|| memfd_create("fastmap-context", flags)).transpose().unwrap_or_default();
        self.files = made.is_some();
        self.file = made.map(File::from);
        Ok(())
    }

    /// All is written.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn finish(mut self) -> io::Result<Context> {
        let Some(mut file) = self.file.take() else { return Ok(self.buffer.into()) };
        file.write_all(&self.buffer)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals | SealFlag::F_SEAL_SEAL))?;
        Ok(Context(Arc::new(Kept::File(Sealed::map(file)?))))
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

/// A sealed file in memory, mapped. Pages that nobody reads here cost this process nothing.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: File,
    /// `None` for a file without bytes, which can't be mapped.
    map: Option<Mmap>,
}

impl Sealed {
    fn map(file: File) -> io::Result<Sealed> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)?;
        let wanted = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK;
        if !SealFlag::from_bits_retain(seals).contains(wanted) {
            return Err(io::Error::other("the context's file is not sealed"));
        }
        // A private mapping of pages that nothing writes shares them as a shared one does. Linux before the stable
        // releases of 2025 refuses the shared one (EPERM): it could be made writable later.
        let map = || {
            // SAFETY: the kernel lets no process write to the file or cut it any more, as was just asked.
            unsafe { MmapOptions::new().map_copy_read_only(&file) }
        };
        let map = (file.metadata()?.len() > 0).then(map).transpose()?;
        Ok(Sealed { file, map })
    }

    /// Worker: what was handed over.
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
    fn whatever_the_pieces_the_bytes_are_the_same_and_many_are_a_file() {
        let whole = FILE_FROM;
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
            assert_eq!(context.file().is_some(), expected.len() > FILE_FROM, "{sizes:?}");
        }
    }

    #[test]
    fn nobody_can_change_what_is_sealed() {
        let (context, expected) = written(&[3 * FILE_FROM]);
        let file = context.file().expect("it is large");
        let again = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            file.as_raw_fd()
        }));
        let mut again = again.expect("it can be opened again");
        assert!(again.write_all(b"x").is_err());
        assert!(again.set_len(0).is_err() && again.set_len(1 << 30).is_err());
        // SAFETY: it is refused.
        assert!(unsafe { memmap2::MmapMut::map_mut(&again) }.is_err());
        assert!(*context == *expected);
        let opened = Sealed::open(file.try_clone().expect("a descriptor").into()).expect("it is sealed");
        assert!(opened.bytes() == expected);
        let open = memfd_create("open", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
        assert!(Sealed::open(open.expect("memory")).is_err());
    }

    #[test]
    fn a_file_on_the_disk_becomes_one_in_memory() {
        let path = std::env::temp_dir().join(format!("fastmap-context-{}", std::process::id()));
        for size in [0, 1000, FILE_FROM, 3 * FILE_FROM + 1] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).expect("room on the disk");
            let context = Context::read(&path).expect("memory");
            std::fs::remove_file(&path).expect("it is there");
            assert!(*context == *bytes);
            assert_eq!(context.file().is_some(), size >= FILE_FROM);
        }
    }
}
