//! Where a worker connects: a socket in a folder of its own, which is removed when the worker has connected.
//! `spawn` makes it, and `peer_credentials` waits at it. If the worker dies first, `exit_latch` ends that wait.
//! If the host's process exits first, its exit hook removes the folder.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, bind, listen, shutdown, socket,
};
use nix::unistd::mkdtemp;

use crate::local::process::descriptors::above_standard;

/// Name of the folder of a socket, below the temporary folder.
const FOLDER: &str = ".tmpXXXXXX";
/// Name of the socket.
const SOCKET: &str = "socket";

/// Most bytes that the name of the temporary folder may have, for the workers' sockets to lie there: `sun_path` holds
/// 107 bytes before its end.
pub const MOST_TEMP_FOLDER: usize = 107 - "//".len() - FOLDER.len() - SOCKET.len();

/// The exit waits so long for sockets that are just being made.
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket that one worker connects to.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    listener: OwnedFd,
    entry: Entry,
}

impl Rendezvous {
    /// A new one, in the temporary folder, or where that can't be used in another one, for this user alone.
    ///
    /// # Errors
    /// In words; they name the temporary folder where that and the others can't be used.
    pub(crate) fn new() -> io::Result<Rendezvous> {
        let mut refused = None;
        for folder in std::iter::once(temp_folder()).chain(other_folders().map(Ok)) {
            match folder.and_then(|folder| Rendezvous::in_folder(&folder)) {
                Ok(server) => return Ok(server),
                // The temporary folder's error is the one to report: the others are tried in its place alone.
                Err(error) => drop(refused.get_or_insert(error)),
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::other("no folder for its socket")))
    }

    fn in_folder(folder: &Path) -> io::Result<Rendezvous> {
        // Before anything is made, because the exit of the process waits for what is on its way
        // (`remove_all`).
        let mut entry = Entry::begin()?;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let listener = above_standard(listener)?;
        let path = make_folder(folder)?.join(SOCKET);
        // As soon as there is a folder: an error below, or the exit of the process, then removes it.
        entry.made(path.to_string_lossy().into_owned());
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?).map_err(|error| named(error.into()))?;
        // Whatever the umask says. The folder is closed to other users from the beginning.
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(named)?;
        listen(&listener, Backlog::new(10)?)?;
        Ok(Rendezvous { listener, entry })
    }

    /// What a worker connects to.
    pub(crate) fn path(&self) -> &str {
        &self.entry.path
    }

    /// Its socket.
    pub(crate) fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    /// Ends the wait for a worker that will not come: `accept` fails from now on.
    pub(crate) fn end(&self) {
        // `shutdown` wakes a thread that waits in `accept`; to close the descriptor would not.
        let _ended = shutdown(self.listener.as_raw_fd(), Shutdown::Read);
    }
}

/// The process that keeps the list: the first that starts a worker; 0: none has. A fork of it may never get
/// the lock, which may be held by a thread that only the parent has: sockets that the fork makes are not
/// listed.
static OWNER: AtomicU32 = AtomicU32::new(0);
static SERVERS: Mutex<Servers> = Mutex::new(Servers { making: 0, paths: BTreeSet::new() });
/// The process exits, and makes no more of them.
static OVER: AtomicBool = AtomicBool::new(false);

/// All servers of this process.
struct Servers {
    /// Begun to be made.
    making: usize,
    paths: BTreeSet<String>,
}

fn lock() -> MutexGuard<'static, Servers> {
    SERVERS.lock_unpoisoned()
}

fn is_owner() -> bool {
    let this = std::process::id();
    // The number only says whose list it is; the list itself is under its own lock.
    match OWNER.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(owner) => owner == this,
    }
}

/// Whether the process exits, and its servers are gone. Workers on their way then complain.
pub(crate) fn is_over() -> bool {
    // Relaxed: `begin` looks under the list's lock, which `remove_all` takes after it has set this. For the
    // others it is a hint.
    OVER.load(Ordering::Relaxed)
}

/// A server in the list, from before it is made until it is gone.
#[derive(Debug)]
struct Entry {
    listed: bool,
    /// Empty until it is made.
    path: String,
}

impl Entry {
    fn begin() -> io::Result<Entry> {
        let listed = is_owner();
        if listed {
            let mut servers = lock();
            if is_over() {
                return Err(io::Error::other("the process is ending"));
            }
            // In the same step as the look above, so that the exit either waits for this one or keeps it from
            // being made.
            servers.making += 1;
        }
        Ok(Entry { listed, path: String::new() })
    }

    fn made(&mut self, path: String) {
        if self.listed {
            let mut servers = lock();
            servers.making -= 1;
            servers.paths.insert(path.clone());
        }
        self.path = path;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.path.is_empty() {
            if self.listed {
                lock().making -= 1;
            }
            return;
        }
        if self.listed && OWNER.load(Ordering::Acquire) != std::process::id() {
            // A fork's copy of the owner's.
            return;
        }
        remove(&self.path);
        if self.listed {
            // After the removal: if the process exits in between, `remove_all` finishes it.
            lock().paths.remove(&self.path);
        }
    }
}

/// Removes a server's folder, by calls that take no descriptor. Where the file is gone, another thread is removing the
/// folder, which the end of the process may cut off before it is done.
fn remove(path: &str) {
    // Twice, because a thread that makes the server may bind the socket between the two calls, which keeps the folder.
    for _ in 0..2 {
        let removed = fs::remove_file(path);
        if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            return;
        }
        if Path::new(path).parent().is_none_or(|folder| fs::remove_dir(folder).is_ok()) {
            return;
        }
    }
}

/// Removes all sockets of this process, which ends.
pub(crate) fn remove_all() {
    // A fork has the list, too, and the servers are not its own.
    if OWNER.load(Ordering::Acquire) != std::process::id() {
        return;
    }
    // First, so that nothing new is made while what is on its way is waited for.
    OVER.store(true, Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    loop {
        let late = Instant::now() >= until;
        // `try_lock`, because the thread that holds the lock may be gone, or be the one that exits.
        if let Ok(mut servers) = SERVERS.try_lock()
            && (servers.making == 0 || late)
        {
            let paths = std::mem::take(&mut servers.paths);
            // Released before the files are removed, which may wait for a disk.
            drop(servers);
            for path in paths {
                remove(&path);
            }
            return;
        }
        if late {
            return;
        }
        sleep(Duration::from_micros(100));
    }
}

/// The temporary folder, if sockets can lie there.
fn temp_folder() -> io::Result<PathBuf> {
    let mut folder = std::env::temp_dir();
    if !folder.is_absolute() {
        let here = std::env::current_dir().map_err(|error| {
            let text = format!("the temporary folder {} (TMPDIR) is relative: {error}", folder.display());
            io::Error::new(error.kind(), text)
        })?;
        folder = here.join(folder);
    }
    let shown = folder.display();
    if folder.to_str().is_none() {
        return Err(io::Error::other(format!(
            "the temporary folder's name is not UTF-8: {shown}; set TMPDIR to one whose name is"
        )));
    }
    if folder.as_os_str().len() > MOST_TEMP_FOLDER {
        return Err(io::Error::other(format!(
            "the temporary folder's name is too long for a socket: {shown}; set TMPDIR to one of at most \
             {MOST_TEMP_FOLDER} bytes"
        )));
    }
    Ok(folder)
}

/// Where a socket may lie if not in the temporary folder (a root that is read-only, a full disk): shared memory, and the
/// folder of a login session.
fn other_folders() -> impl Iterator<Item = PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usable = |folder: &PathBuf| {
        folder.is_absolute() && folder.to_str().is_some_and(|name| name.len() <= MOST_TEMP_FOLDER)
    };
    [Some(PathBuf::from("/dev/shm")), session].into_iter().flatten().filter(usable)
}

/// Makes a folder in this one that no other user may enter.
fn make_folder(folder: &Path) -> io::Result<PathBuf> {
    let shown = folder.display();
    mkdtemp(&folder.join(FOLDER)).map_err(|error| match error {
        Errno::ENOENT if !folder.is_dir() => io::Error::other(format!(
            "the temporary folder {shown} does not exist; set TMPDIR to one that does"
        )),
        error => {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("in the temporary folder {shown} (TMPDIR): {error}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc::channel;
    use std::thread;

    use nix::sys::socket::{accept, connect};

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn a_folder_is_removed_also_while_its_socket_is_being_made() {
        for _ in 0..2000 {
            let folder = make_folder(&std::env::temp_dir()).expect("a temporary folder");
            let path = folder.join(SOCKET);
            let address = UnixAddr::new(&path).expect("a short path");
            let server = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
                .expect("a descriptor");
            thread::scope(|scope| {
                scope.spawn(|| bind(server.as_raw_fd(), &address));
                remove(&path.to_string_lossy());
            });
            assert!(!folder.exists(), "{}", folder.display());
        }
    }

    #[test]
    fn the_end_of_one_wait_leaves_the_others_also_where_its_file_is_gone() {
        let kept = Rendezvous::new().expect("a temporary folder");
        for gone in [false, true] {
            let (end, ended) = channel();
            let server = std::sync::Arc::new(Rendezvous::new().expect("a temporary folder"));
            let path = server.path().to_owned();
            let waited = std::sync::Arc::clone(&server);
            let waiting = thread::spawn(move || {
                end.send(accept(waited.listener().as_raw_fd()).is_err()).expect("it is awaited");
            });
            if gone {
                remove(&path);
            }
            server.end();
            assert_eq!(ended.recv_timeout(LIMIT), Ok(true), "gone: {gone}");
            waiting.join().expect("no panic");
            drop(server);
            assert!(!Path::new(&path).parent().expect("a folder").exists());
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let end = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a descriptor");
        let address = UnixAddr::new(kept.path()).expect("a short path");
        assert_eq!(connect(end.as_raw_fd(), &address), Ok(()));
    }

    #[test]
    fn a_server_is_listed_as_long_as_there_is_something_to_remove() {
        let server = Rendezvous::new().expect("a temporary folder");
        let path = server.path().to_owned();
        assert!(lock().paths.contains(&path));
        drop(server);
        assert!(!lock().paths.contains(&path));
        assert!(!Path::new(&path).parent().expect("a folder").exists());
    }

    #[test]
    fn socket_and_folder_are_the_owners_alone() {
        let server = Rendezvous::new().expect("a temporary folder");
        let folder = Path::new(server.path()).parent().expect("a folder").to_owned();
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!((mode(&folder), mode(Path::new(server.path()))), (0o700, 0o600));
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let missing = std::env::temp_dir().join("fastmap-missing");
        for folder in [missing.as_path(), Path::new("/proc")] {
            let error = make_folder(folder).expect_err("no folder can be made there").to_string();
            assert!(error.contains("TMPDIR") && error.contains(&folder.display().to_string()), "{error}");
        }
    }
}
