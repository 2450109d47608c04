//! Where a worker greets: a socket of ipc-channel's, in a folder of its own that goes when the worker has come. Made by
//! `start`, waited at by `reader`. For a worker that will not come any more that wait is ended by `reader`'s gate; and where
//! the process exits before, the folder is removed on the way.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipc_channel::IpcError;
use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, accept4, connect, getsockname, getsockopt,
    shutdown, socket, sockopt,
};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, eaccess};

use super::door;
use super::greeting::Greeting;

/// Most bytes that the name of the temporary folder may have, for the workers' sockets to lie there: `sun_path` holds
/// 107 bytes before its end, to which ipc-channel adds a folder and a name, and cuts a longer path off in silence.
pub const MOST_TEMP_FOLDER: usize = 107 - "/.tmpXXXXXX/socket".len();

/// The exit waits so long for sockets that are just being made.
const PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors have lower numbers, where nobody has raised the kernel's own limit (`fs.nr_open`).
const MOST_DESCRIPTORS: RawFd = 1 << 20;

/// A socket that one worker connects to.
pub(crate) struct Server {
    server: IpcOneShotServer<Greeting>,
    entry: Entry,
}

impl Server {
    /// A new one, in the temporary folder.
    ///
    /// # Errors
    /// In words; they name the folder where that can't be used.
    pub(crate) fn new() -> io::Result<Server> {
        let folder = temp_folder()?;
        let mut entry = Entry::begin()?;
        let (server, path) = make(&folder)?;
        entry.made(path);
        let server = Server { server, entry };
        close_to_others(server.path())?;
        Ok(server)
    }

    /// What a worker connects to.
    pub(crate) fn path(&self) -> &str {
        &self.entry.path
    }

    /// Its socket, once more, for what is to be accepted before ipc-channel does.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(crate) fn listener(&self) -> io::Result<OwnedFd> {
        let number = find_listener(self.path()).ok_or_else(|| io::Error::from(Errno::EBADF))?;
        // SAFETY: it is the server's socket, which is open as long as `self`.
        unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
    }

    /// Waits for the worker's greeting, or until [`come_and_go`].
    pub(crate) fn accept(self) -> Result<(IpcReceiver<Greeting>, Greeting), IpcError> {
        // It stays in the list until its folder is gone.
        let Server { server, entry: _listed } = self;
        server.accept()
    }
}

/// Closes the connections that a listening socket has not accepted: the next one that comes is accepted next.
///
/// # Errors
/// If no descriptor is left.
pub(crate) fn turn_away(listener: &OwnedFd) -> io::Result<()> {
    while poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1) {
        let peer = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept has just made it, and it is nowhere else.
        drop(unsafe { OwnedFd::from_raw_fd(peer) });
    }
    Ok(())
}

/// Takes the rights of other users away, which the umask may have left them. A connection that has come
/// before is turned away, or is none of a worker's (`door`); none comes after.
fn close_to_others(path: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    let closed = fs::set_permissions(folder, Permissions::from_mode(0o700));
    closed.and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o600))).map_err(named)
}

/// Ends the wait for a worker that will not come: comes in its place. Not by ipc-channel: it loses the descriptor where
/// nobody listens.
pub(crate) fn come_and_go(path: &str) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let came = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .and_then(|end| connect(end.as_raw_fd(), &UnixAddr::new(path)?));
    if came.is_err() {
        // No descriptor is left, or the file is gone: there is no other way in.
        end_listening(path);
    }
}

/// Ends the listening itself: `accept` then fails. This takes neither a descriptor nor the file. ipc-channel keeps the number of
/// its socket to itself, but no other bears that name (save, for a moment, what the same `accept` has given). Up to a tenth
/// of a second, where nobody listens.
fn end_listening(path: &str) {
    if let Some(listener) = find_listener(path) {
        let _ended = shutdown(listener, Shutdown::Read);
    }
}

/// The descriptor of the listening socket of that name. Sockets that it has accepted have the same name.
fn find_listener(path: &str) -> Option<RawFd> {
    let listens = |number: &RawFd| {
        let named = getsockname::<UnixAddr>(*number).is_ok_and(|name| name.path() == Some(Path::new(path)));
        // SAFETY: the kernel has just known the number; it says so if it is another's by now.
        named && getsockopt(&unsafe { BorrowedFd::borrow_raw(*number) }, sockopt::AcceptConn) == Ok(true)
    };
    (0..MOST_DESCRIPTORS).find(listens)
}

/// The process that keeps the list: the first that starts a worker; 0: none has. A fork of it may never get the lock, which a
/// thread can hold that the fork has not: its servers are not listed.
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
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_owner() -> bool {
    let this = std::process::id();
    match OWNER.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // SAFETY: the function lives as long as the program; it takes and gives nothing. Where it can't be registered,
            // a folder may be left.
            unsafe { libc::atexit(at_exit) };
            true
        }
        Err(owner) => owner == this,
    }
}

/// Whether the process exits, and its servers are gone. Workers on their way then complain.
pub(crate) fn is_over() -> bool {
    OVER.load(Ordering::Relaxed)
}

/// A server in the list, from before it is made until it is gone.
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
        // ipc-channel has done so, unless there was no descriptor for it.
        remove(&self.path);
        if self.listed {
            lock().paths.remove(&self.path);
        }
    }
}

/// Removes a server's folder, by calls that take no descriptor. Where the file is gone, another thread is removing the
/// folder, which the end of the process may cut off before it is done.
fn remove(path: &str) {
    let removed = fs::remove_file(path);
    if removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let _none = fs::remove_file(door::path_beside(path));
        let _left = Path::new(path).parent().map(fs::remove_dir);
    }
}

extern "C" fn at_exit() {
    // A panic must not leave a function that C calls.
    let _over = catch_unwind(remove_all);
}

fn remove_all() {
    // A fork has the list, too, and the servers are not its own.
    if OWNER.load(Ordering::Acquire) != std::process::id() {
        return;
    }
    OVER.store(true, Ordering::Relaxed);
    let until = Instant::now() + PATIENCE;
    loop {
        let late = Instant::now() >= until;
        // Not waited for: who holds it may be gone, or be the thread that exits.
        if let Ok(mut servers) = SERVERS.try_lock()
            && (servers.making == 0 || late)
        {
            let paths = std::mem::take(&mut servers.paths);
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

/// The temporary folder, as ipc-channel will take it, if sockets can lie there.
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

/// Where ipc-channel can't make its folder it panics, and its socket is lost: once that was so, look first.
static REFUSED: AtomicBool = AtomicBool::new(false);

fn make(folder: &Path) -> io::Result<(IpcOneShotServer<Greeting>, String)> {
    let shown = folder.display();
    let refused = |error: io::Error| {
        io::Error::new(error.kind(), format!("in the temporary folder {shown} (TMPDIR): {error}"))
    };
    if REFUSED.load(Ordering::Relaxed) || !has_room(folder) {
        // What for, only the attempt tells; or that there is some after all.
        if !folder.is_dir() {
            return Err(io::Error::other(format!(
                "the temporary folder {shown} does not exist; set TMPDIR to one that does"
            )));
        }
        try_folder(folder).map_err(refused)?;
    }
    // Without a socket ipc-channel goes on, and can't remove the folder that it has made by then. 2 µs.
    try_socket()?;
    let made = catch_unwind(IpcOneShotServer::new);
    REFUSED.store(made.is_err(), Ordering::Relaxed);
    made.unwrap_or_else(|_| {
        Err(try_folder(folder).err().unwrap_or_else(|| io::Error::other("no folder can be made there")))
    })
    .map_err(|error| match error.raw_os_error() {
        // Somebody else took the last descriptor meanwhile.
        Some(libc::EBADF) => no_descriptor(),
        _ => refused(error),
    })
}

/// Whether this process can have a socket.
fn try_socket() -> io::Result<()> {
    match socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None) {
        Ok(_closed) => Ok(()),
        Err(Errno::EMFILE) => Err(no_descriptor()),
        Err(error) => Err(error.into()),
    }
}

fn no_descriptor() -> io::Error {
    let error = io::Error::from(Errno::EMFILE);
    io::Error::new(error.kind(), format!("{error}; allow this process more descriptors (ulimit -n)"))
}

/// Whether it is plain that a folder can be made in this one. To make one and remove it takes 0.3 ms on a disk.
fn has_room(folder: &Path) -> bool {
    eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
        && statvfs(folder).is_ok_and(|system| {
            // Some file systems don't count their files.
            system.blocks_available() > 0 && (system.files() == 0 || system.files_available() > 0)
        })
}

/// Makes a folder in this one, and removes it.
fn try_folder(folder: &Path) -> io::Result<()> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Workers that start side by side try side by side.
    let attempt = TRIED.fetch_add(1, Ordering::Relaxed);
    let probe = folder.join(format!(".fastmap-{}-{attempt}", std::process::id()));
    match fs::create_dir(&probe) {
        // Left by a process of that number that was killed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| fs::remove_dir(&probe)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn the_wait_for_a_worker_that_will_not_come_ends_also_where_its_file_is_gone() {
        for gone in [false, true] {
            let (tell, told) = channel();
            let (end, ended) = channel();
            let waiting = thread::spawn(move || {
                let server = Server::new().expect("a temporary folder");
                tell.send(server.path().to_owned()).expect("it is awaited");
                end.send(server.accept().is_err()).expect("it is awaited");
            });
            let path = told.recv_timeout(LIMIT).expect("it was made");
            if gone {
                remove(&path);
            }
            come_and_go(&path);
            assert_eq!(ended.recv_timeout(LIMIT), Ok(true), "gone: {gone}");
            waiting.join().expect("no panic");
            assert!(!Path::new(&path).parent().expect("a folder").exists());
        }
    }

    #[test]
    fn the_end_of_one_wait_leaves_the_others() {
        let kept = Server::new().expect("a temporary folder");
        let ended = Server::new().expect("a temporary folder");
        end_listening(ended.path());
        assert!(ended.accept().is_err());
        let flags = SockFlag::SOCK_CLOEXEC;
        let end = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a descriptor");
        let address = UnixAddr::new(kept.path()).expect("a short path");
        assert_eq!(connect(end.as_raw_fd(), &address), Ok(()));
    }

    #[test]
    fn a_server_is_listed_as_long_as_there_is_something_to_remove() {
        let server = Server::new().expect("a temporary folder");
        let path = server.path().to_owned();
        assert!(lock().paths.contains(&path));
        drop(server);
        assert!(!lock().paths.contains(&path));
        assert!(!Path::new(&path).parent().expect("a folder").exists());
    }

    #[test]
    fn where_there_is_no_room_the_attempt_tells_why() {
        let folder = std::env::temp_dir();
        assert!(has_room(&folder));
        assert!(try_folder(&folder).is_ok());
        let missing = folder.join("fastmap-missing");
        assert!(!has_room(&missing));
        assert_eq!(try_folder(&missing).expect_err("it is not there").kind(), io::ErrorKind::NotFound);
        // Of a file system that tells nothing, nothing is known.
        assert!(!has_room(Path::new("/proc")));
        assert!(try_folder(Path::new("/proc")).is_err());
    }
}
