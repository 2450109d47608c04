//! The thread that owns the worker processes: it starts them, reads what they print, and is told by the kernel when
//! one dies. It lives as long as the pool, because a worker's parent-death signal is tied to the *thread* that
//! started it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipc_channel::ipc::IpcOneShotServer;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::door::Door;
use super::greeting::{Confinement, Greeting, INSIDE, MARKER, Marker};
use super::launch::{Keeper, Start};
use super::lines::Lines;
use super::member::Member;
use super::page::Page;
use super::pool::Shared;
use super::reader::{Gate, Peer, listen};
use super::relay::{Pipe, Stream};
use super::steal;
use super::wear::{LEAVE, MemoryKills};
use crate::completion::{Death, DeathCause};

/// Bytes of one pipe that are passed on before the others get their turn.
const TURN: usize = 256 * 1024;
/// The kernel's count of memory kills is read when the first workers are up: it takes 0.1 ms of a core that they need.
const COUNT_KILLS: Duration = Duration::from_millis(20);
/// Most bytes that the name of the temporary folder may have, for the workers' sockets to lie there: `sun_path` holds
/// 107 bytes before its end, to which ipc-channel adds a folder and a name, and cuts a longer path off in silence.
pub const MOST_TEMP_FOLDER: usize = 107 - "/.tmpXXXXXX/socket".len();

/// What the supervisor holds of one worker.
struct Watched {
    id: u64,
    name: Arc<str>,
    pid: u32,
    /// `None` where the kernel had reaped the process before it could be opened (SIGCHLD is ignored here).
    pidfd: Option<OwnedFd>,
    stdout: Pipe<ChildStdout>,
    stderr: Pipe<ChildStderr>,
    /// Where its greeting is awaited.
    server: String,
    /// Bytes that it has printed.
    printed: u64,
    keeper: Option<Box<dyn Keeper>>,
    gate: Arc<Gate>,
    reader: JoinHandle<()>,
}

/// Runs until the pool closes and its last worker is dead.
pub(crate) fn supervise(shared: &Arc<Shared>) {
    block_signals();
    let mut watched: Vec<Watched> = Vec::new();
    let mut readers: Vec<JoinHandle<()>> = Vec::new();
    let mut lines = Lines::new(shared);
    let mut named = 0;
    let mut folder_tried = false;
    let mut first_start: Option<Instant> = None;
    let mut memory_kills = None;
    let mut closing: Option<Instant> = None;
    let mut last_look = Instant::now();
    loop {
        let now = Instant::now();
        let mut state = shared.lock();
        if state.closing && closing.is_none() {
            closing = Some(now);
            for member in &mut state.members {
                match &mut member.outbox {
                    Some(outbox) => outbox.close(),
                    // It has begun nothing yet, and could not be told otherwise.
                    None => drop(member.child.kill()),
                }
            }
        }
        if closing.is_some_and(|since| now.duration_since(since) > LEAVE) {
            state.members.iter_mut().for_each(|member| drop(member.child.kill()));
        }
        let mut pause = steal::look(&mut state, now.duration_since(last_look), now);
        last_look = now;
        let may_start = state.not_before.is_none_or(|not_before| now >= not_before);
        let mut requested = 0;
        if state.closing {
            pause = Some(LEAVE / 10);
        } else if may_start {
            requested = state.requested;
        }
        state.next_look = pause.map(|pause| now + pause);
        drop(state);
        if closing.is_some() && watched.is_empty() {
            break;
        }
        for _ in 0..requested {
            named += 1;
            match start(shared, named, &mut folder_tried) {
                Ok(new) => watched.push(new),
                Err(death) => {
                    shared.not_started(death);
                    break;
                }
            }
        }
        let mut within = |most: Duration| pause = Some(pause.map_or(most, |pause| pause.min(most)));
        if requested > 0 {
            // What was started may have to be looked after by the clock.
            within(Duration::from_secs(1));
            first_start.get_or_insert(now);
        }
        if first_start.is_some() && memory_kills.is_none() {
            within(COUNT_KILLS);
        }
        let news = wait(shared, &watched, lines.have_room(), pause);
        if memory_kills.is_none() && first_start.is_some_and(|begun| begun.elapsed() >= COUNT_KILLS) {
            memory_kills = Some(MemoryKills::new());
        }
        for index in (0..watched.len()).rev().filter(|index| news[*index]) {
            watched[index].pass_on(shared, &mut lines);
            if watched[index].is_dead() {
                readers.push(watched.swap_remove(index).bury(shared, &mut lines, memory_kills.as_mut()));
            }
        }
        readers.retain(|reader| !reader.is_finished());
    }
    for reader in readers {
        drop(reader.join());
    }
}

/// Signals are the program's business: a handler of its own must not run here, where it would interrupt a call that
/// can't be resumed (ipc-channel gives up an interrupted `accept`).
pub(crate) fn block_signals() {
    let mut set = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
        set.remove(fault);
    }
    let _unchanged = set.thread_block();
}

/// Waits until a worker prints (if it is to be read) or dies, somebody wakes this thread, or `pause` is over; tells
/// which workers have news.
fn wait(shared: &Shared, watched: &[Watched], read: bool, pause: Option<Duration>) -> Vec<bool> {
    let mut fds = vec![
        PollFd::new(shared.wake().as_fd(), PollFlags::POLLIN),
        PollFd::new(shared.timer().as_fd(), PollFlags::POLLIN),
    ];
    let mut owners = vec![usize::MAX; fds.len()];
    // A process that was reaped before it could be opened is news by itself.
    let mut news: Vec<bool> = watched.iter().map(|worker| worker.pidfd.is_none()).collect();
    for (index, worker) in watched.iter().enumerate() {
        let open: [Option<BorrowedFd<'_>>; 3] = [
            worker.pidfd.as_ref().map(AsFd::as_fd),
            worker.stdout.open().filter(|_| read).map(AsFd::as_fd),
            worker.stderr.open().filter(|_| read).map(AsFd::as_fd),
        ];
        for fd in open.into_iter().flatten() {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            owners.push(index);
        }
    }
    let timeout = match pause {
        _ if news.contains(&true) => PollTimeout::ZERO,
        // poll counts in milliseconds: round up, or a short pause would spin.
        Some(pause) => PollTimeout::try_from(pause.as_micros().div_ceil(1000).min(60_000) as u32)
            .unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    // Interrupted or out of memory: look around as if something had happened.
    let all = poll(&mut fds, timeout).is_err();
    for (fd, owner) in fds.iter().zip(owners).skip(2) {
        news[owner] |= all || fd.any().unwrap_or(true);
    }
    let _empty = shared.wake().read();
    let fired = fds[1].any().unwrap_or(true);
    if fired {
        // It does not wait: it has fired, or does not block.
        let _again = shared.timer().wait();
    }
    news
}

impl Watched {
    fn pass_on(&mut self, shared: &Shared, lines: &mut Lines) {
        let limit = shared.options.output;
        if limit.is_some_and(|limit| self.printed > limit) {
            return; // It has been told, and is dying.
        }
        let Watched { name, stdout, stderr, printed, .. } = self;
        if lines.have_room() {
            *printed += stdout.pass_on(TURN, &mut |stream, line| lines.put(name, stream, line)) as u64;
        }
        if lines.have_room() {
            *printed += stderr.pass_on(TURN, &mut |stream, line| lines.put(name, stream, line)) as u64;
        }
        if let Some(limit) = limit.filter(|limit| self.printed > *limit) {
            shared.condemn(self.id, DeathCause::OutputLimit(limit));
        }
    }

    fn is_dead(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Takes the exit status and the last output, and tells the reader, which ends with the rest of the channel.
    fn bury(mut self, shared: &Shared, lines: &mut Lines, kills: Option<&mut MemoryKills>) -> JoinHandle<()> {
        let exited = {
            let mut state = shared.lock();
            state.member(self.id).map(|member| member.child.wait())
        };
        let cause = match (exited, &mut self.keeper) {
            (Some(Ok(status)), Some(keeper)) => keeper.cause(status),
            (Some(Ok(status)), None) => match cause_of(status) {
                DeathCause::Signal(libc::SIGKILL) => {
                    kills.and_then(MemoryKills::judge).unwrap_or(DeathCause::Signal(libc::SIGKILL))
                }
                cause => cause,
            },
            _ => DeathCause::Unknown,
        };
        let mut out = |stream, line| lines.put(&self.name, stream, line);
        self.stdout.finish(&mut out);
        let stderr = self.stderr.finish(&mut out);
        let death = Death { worker: self.name.to_string(), pid: self.pid, cause, refused: None, stderr };
        self.gate.close(death, &self.server);
        self.reader
    }
}

fn cause_of(status: std::process::ExitStatus) -> DeathCause {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => DeathCause::Exit(code),
        (None, Some(signal)) => DeathCause::Signal(signal),
        (None, None) => DeathCause::Unknown,
    }
}

/// Starts a worker; on failure says why none came. `tried`: see [`listen_socket`].
fn start(shared: &Arc<Shared>, number: u64, tried: &mut bool) -> Result<Watched, Death> {
    let name = format!("worker-{number}");
    let failed = |what: &str, error: &dyn std::fmt::Display| Death {
        worker: name.clone(),
        pid: 0,
        cause: DeathCause::NotStarted(format!("{what}: {error}")),
        refused: None,
        stderr: Vec::new(),
    };
    let (server, path) = listen_socket(tried).map_err(|error| failed("cannot make its socket", &error))?;
    let (page, stdin) = Page::create().map_err(|error| failed("cannot share memory with it", &error))?;
    let page = Arc::new(page);
    let marker = Marker {
        host: shared.owner,
        name: name.clone(),
        level: log::max_level(),
        confinement: Confinement::Own(shared.options.sandbox),
        server: path.clone(),
    };
    let (mut command, door, keeper) = match &shared.options.launcher {
        None => (own_program(shared, &marker), None, None),
        Some(launcher) => {
            let door = Door::beside(&path).map_err(|error| failed("cannot make its socket", &error))?;
            let start = Start { name: &name, socket: Path::new(door.path()), marker: &marker };
            let launch = launcher.launch(&start).map_err(|error| failed("cannot launch it", &error))?;
            (launch.command, Some(door), Some(launch.keeper))
        }
    };
    let mut child =
        command
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&format!("cannot start {}", command.get_program().display()), &error))?;
    let knock = door.as_ref().map_or_else(|| path.clone(), |door| door.path().to_owned());
    let door = door.map(|door| (door, path));
    let pid = child.id();
    let pipes = (|| -> io::Result<_> {
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no pipe"))?;
        Ok((Pipe::new(stdout, Stream::Stdout)?, Pipe::new(stderr, Stream::Stderr)?))
    })();
    let (stdout, stderr) = match pipes {
        Ok(pipes) => pipes,
        Err(error) => {
            drop(child.kill().and_then(|()| child.wait()));
            return Err(failed("cannot read its output", &error));
        }
    };
    let pidfd = match Pid::from_raw(pid as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(pidfd)) => Some(pidfd),
        Some(Err(rustix::io::Errno::SRCH)) | None => None,
        // Not allowed here, or no descriptor left: a process whose death can't be noticed is of no use.
        Some(Err(error)) => {
            drop(child.kill().and_then(|()| child.wait()));
            return Err(failed("cannot watch it (pidfd_open)", &error));
        }
    };
    let gate = Arc::new(Gate::default());
    let reader = {
        // The member must be known before its reader can have news of it.
        let mut state = shared.lock();
        state.requested = state.requested.saturating_sub(1);
        state.members.push(Member::new(number, name.clone(), child, Arc::clone(&page)));
        let (shared, gate, name) = (Arc::clone(shared), Arc::clone(&gate), name.clone());
        std::thread::Builder::new().name(format!("fastmap-{name}")).spawn(move || {
            block_signals();
            listen(
                &Peer { shared: &shared, id: number, name: &name, page: &page, gate: &gate },
                server,
                door,
            );
        })
    };
    match reader {
        Ok(reader) => {
            let server = knock;
            Ok(Watched {
                id: number,
                name: name.into(),
                pid,
                pidfd,
                stdout,
                stderr,
                server,
                printed: 0,
                keeper,
                gate,
                reader,
            })
        }
        Err(error) => {
            let mut state = shared.lock();
            if let Some(at) = state.members.iter().position(|member| member.id == number) {
                // As if it had not come so far: the caller counts it as not started.
                state.requested += 1;
                let mut child = state.members.remove(at).child;
                drop(child.kill().and_then(|()| child.wait()));
            }
            Err(failed("cannot start a thread for it", &error))
        }
    }
}

/// The command that starts this very program as a worker.
fn own_program(shared: &Shared, marker: &Marker) -> Command {
    let program = shared.options.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
    // No `pre_exec`: with it std would fork, which takes 20 ms for a host of 1 GB; without, it uses posix_spawn.
    let mut command = Command::new(program);
    command
        .arg0(format!("{} [fastmap {}]", program_name(), marker.name))
        .env(MARKER, marker.to_string())
        .env_remove(INSIDE)
        .env_remove("FASTMAP_SECRET");
    command
}

/// A socket that a worker connects to. ipc-channel panics without a temporary folder and cuts long paths: look first.
/// `tried`: a folder could be made there before.
fn listen_socket(tried: &mut bool) -> io::Result<(IpcOneShotServer<Greeting>, String)> {
    let folder = std::env::temp_dir();
    let shown = folder.display();
    if !folder.is_dir() {
        return Err(io::Error::other(format!(
            "the temporary folder {shown} does not exist; set TMPDIR to one that does"
        )));
    }
    if folder.as_os_str().len() > MOST_TEMP_FOLDER {
        return Err(io::Error::other(format!(
            "the temporary folder's name is too long for a socket: {shown}; set TMPDIR to one of at most \
             {MOST_TEMP_FOLDER} bytes"
        )));
    }
    let refused = |error: io::Error| {
        io::Error::new(error.kind(), format!("in the temporary folder {shown} (TMPDIR): {error}"))
    };
    // Where it can't make its own folder, ipc-channel panics: try first. Once, for it takes 0.1 ms on some file
    // systems; what changes later comes as that panic.
    if !*tried {
        let probe = folder.join(format!(".fastmap-{}", std::process::id()));
        match std::fs::create_dir(&probe) {
            // Another pool of this process tries as well.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.and_then(|()| std::fs::remove_dir(&probe)).map_err(refused)?,
        }
        *tried = true;
    }
    catch_unwind(IpcOneShotServer::new)
        .unwrap_or_else(|_| Err(io::Error::other("no folder can be made there any more")))
        .map_err(refused)
}

fn program_name() -> String {
    let path = std::env::current_exe().ok();
    path.as_deref()
        .and_then(|path| path.file_name())
        .map_or_else(|| "program".to_owned(), |name| name.to_string_lossy().into_owned())
}
