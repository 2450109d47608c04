//! Files of the function's own: `/tmp` and `/dev/shm`.

use std::env;
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::ptr;

use crate::{Act, act, error};

pub(crate) const ACTS: &[Act] = &[
    act("both folders are empty", "[] []", || {
        let names = |folder: &str| {
            let entries =
                fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.file_name()));
            format!("{:?}", entries.map(Iterator::collect::<Vec<_>>).unwrap_or_default())
        };
        format!("{} {}", names("/tmp"), names("/dev/shm"))
    }),
    act("where temporary files are", "/tmp, a folder: true", || {
        let folder = env::temp_dir();
        format!("{}, a folder: {}", folder.display(), folder.is_dir())
    }),
    act("a file and its life", "5 bytes, renamed, then gone", || shown(file("/tmp"))),
    act("a file and its life in /dev/shm", "5 bytes, renamed, then gone", || shown(file("/dev/shm"))),
    act("a file and its life in /var/tmp", "5 bytes, renamed, then gone", || shown(file("/var/tmp"))),
    act("a file without a name (tempfile)", "hello", || shown(unnamed())),
    act("a folder with files (tempfile)", "2 files, a link of 2, then gone: true", || shown(folder())),
    act("a file that is kept (tempfile)", "kept", || shown(kept())),
    act("a file without a name by the kernel", "made", || {
        let made = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open("/tmp");
        made.map_or_else(|why| error(&why), |_| "made".to_owned())
    }),
    act("mkstemp and tmpfile of C", "2 files", || shown(of_c())),
    act("a file that is cut, changed and made longer", "3 600 10", || shown(changed())),
    act("memory by name (shm_open)", "shared, gone", || shown(shared_memory())),
    act("a semaphore by name (sem_open)", "posted and taken", || shown(semaphore())),
    act("code that is made in a file", "mapped", || shown(code())),
    act("a path through the folder's descriptor", "5", || shown(by_descriptor())),
    act("other files are not there", "false false", || {
        let there = |path: &str| fs::symlink_metadata(path).is_ok();
        format!("{} {}", there("/tmp/fastmap-nothing"), there("/tmp/nothing/../fastmap-nothing"))
    }),
    act("a symbolic link is refused", "error 1", || {
        std::os::unix::fs::symlink("/etc", "/tmp/link").map_or_else(|why| error(&why), |()| "made".to_owned())
    }),
    act("fill /tmp", "filled", || shown(fill())),
];

fn shown(done: io::Result<String>) -> String {
    done.unwrap_or_else(|why| error(&why))
}

fn file(folder: &str) -> io::Result<String> {
    let (one, other) = (Path::new(folder).join("one"), Path::new(folder).join("other"));
    File::create_new(&one)?.write_all(b"hello")?;
    let again = File::create_new(&one).map_err(|why| why.kind());
    assert_eq!(again.err(), Some(io::ErrorKind::AlreadyExists));
    let length = fs::metadata(&one)?.len();
    fs::rename(&one, &other)?;
    assert!(!one.exists() && other.exists());
    assert_eq!(fs::canonicalize(&other)?.file_name(), other.file_name());
    assert_eq!(fs::read(&other)?, b"hello");
    fs::remove_file(&other)?;
    Ok(format!("{length} bytes, renamed, then {}", if other.exists() { "there" } else { "gone" }))
}

fn unnamed() -> io::Result<String> {
    let mut file = tempfile::tempfile()?;
    file.write_all(b"hello")?;
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn folder() -> io::Result<String> {
    let folder = tempfile::tempdir()?;
    let inside = folder.path().join("a/b");
    fs::create_dir_all(&inside)?;
    fs::write(inside.join("one"), "1")?;
    fs::hard_link(inside.join("one"), inside.join("two"))?;
    let names = fs::read_dir(&inside)?.count();
    let links = std::os::unix::fs::MetadataExt::nlink(&fs::metadata(inside.join("two"))?);
    let path = folder.path().to_owned();
    folder.close()?;
    Ok(format!("{names} files, a link of {links}, then gone: {}", !path.exists()))
}

fn kept() -> io::Result<String> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(b"kept")?;
    file.persist("/tmp/kept").map_err(|error| error.error)?;
    fs::copy("/tmp/kept", "/tmp/copied")?;
    fs::read_to_string("/tmp/copied")
}

fn of_c() -> io::Result<String> {
    let mut name = *b"/tmp/fileXXXXXX\0";
    // SAFETY: a template that ends with a zero byte, and what the C library has made of it.
    unsafe {
        if libc::mkstemp(name.as_mut_ptr().cast()) < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::unlink(name.as_ptr().cast()) != 0 || libc::tmpfile().is_null() {
            return Err(io::Error::last_os_error());
        }
    }
    Ok("2 files".to_owned())
}

fn changed() -> io::Result<String> {
    fs::write("/tmp/changed", "hello")?;
    // SAFETY: a path that ends with a zero byte.
    if unsafe { libc::truncate(c"/tmp/changed".as_ptr(), 3) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let cut = fs::metadata("/tmp/changed")?.len();
    fs::set_permissions("/tmp/changed", fs::Permissions::from_mode(0o600))?;
    let mode = fs::metadata("/tmp/changed")?.permissions().mode() & 0o777;
    let file = OpenOptions::new().write(true).open("/tmp/changed")?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    file.set_len(10)?;
    file.sync_all()?;
    Ok(format!("{cut} {mode:o} {}", file.metadata()?.len()))
}

fn shared_memory() -> io::Result<String> {
    let name = c"/fastmap-test";
    // SAFETY: a name that ends with a zero byte, and memory that is as long as it was made.
    unsafe {
        let made = libc::shm_open(name.as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_RDWR, 0o600);
        if made < 0 || libc::ftruncate(made, 4096) != 0 {
            return Err(io::Error::last_os_error());
        }
        let map = |fd, protection| libc::mmap(ptr::null_mut(), 4096, protection, libc::MAP_SHARED, fd, 0);
        let page = map(made, libc::PROT_READ | libc::PROT_WRITE);
        assert_ne!(page, libc::MAP_FAILED);
        ptr::copy_nonoverlapping(b"shared".as_ptr(), page.cast(), 6);
        let other = libc::shm_open(name.as_ptr(), libc::O_RDONLY, 0);
        if other < 0 {
            return Err(io::Error::last_os_error());
        }
        let text = CStr::from_ptr(map(other, libc::PROT_READ).cast()).to_string_lossy().into_owned();
        let gone =
            libc::shm_unlink(name.as_ptr()) == 0 && libc::shm_open(name.as_ptr(), libc::O_RDONLY, 0) < 0;
        Ok(format!("{text}, {}", if gone { "gone" } else { "there" }))
    }
}

fn semaphore() -> io::Result<String> {
    // SAFETY: a name that ends with a zero byte, and what the C library has made of it.
    unsafe {
        let made = libc::sem_open(c"/fastmap-test".as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600u32, 0u32);
        if made == libc::SEM_FAILED {
            return Err(io::Error::last_os_error());
        }
        assert_eq!(libc::sem_post(made), 0);
        assert_eq!(libc::sem_trywait(made), 0);
        assert_eq!(libc::sem_unlink(c"/fastmap-test".as_ptr()), 0);
    }
    Ok("posted and taken".to_owned())
}

fn code() -> io::Result<String> {
    let file = tempfile::tempfile()?;
    file.set_len(4096)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: new memory, which nothing else uses.
    let page =
        unsafe { libc::mmap(ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok("mapped".to_owned()) }
}

fn by_descriptor() -> io::Result<String> {
    fs::create_dir("/tmp/folder")?;
    let folder = File::open("/tmp/folder")?;
    // SAFETY: names that end with a zero byte, and a descriptor of our own.
    unsafe {
        let made = libc::openat(folder.as_raw_fd(), c"x".as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600);
        if made < 0 || libc::write(made, b"hello".as_ptr().cast(), 5) != 5 {
            return Err(io::Error::last_os_error());
        }
        let mut found: libc::stat = std::mem::zeroed();
        let looked = libc::fstatat(folder.as_raw_fd(), c"x".as_ptr(), &raw mut found, 0);
        if looked != 0 || libc::unlinkat(folder.as_raw_fd(), c"x".as_ptr(), 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(found.st_size.to_string())
    }
}

/// 48 MiB.
fn fill() -> io::Result<String> {
    let mut file = File::create("/tmp/large")?;
    let block = vec![1u8; 1 << 20];
    for _ in 0..48 {
        file.write_all(&block)?;
    }
    Ok("filled".to_owned())
}
