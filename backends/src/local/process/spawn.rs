//! How a worker comes into being: a thread of its own makes what it shares with the host, starts the process, hands it to
//! the supervisor, and listens to it from then on (`reader`). So workers come up side by side: `posix_spawn` returns only
//! when the new process runs its program, on whose core the caller then waits for a millisecond. And a worker's
//! parent-death signal is tied to the *thread* that started it, which lives as long as the worker.

use std::borrow::Cow;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use fastmap_sandbox::most_processes;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, WaitId, WaitIdOptions, getrlimit, pidfd_open, waitid};

use crate::execution::startable::executable_path;
use crate::local::cores;
use crate::local::ipc::handshake::{Confinement, INSIDE, MARKER, STACK, WorkerBootstrap};
use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::launcher::Start;
use crate::local::output::pipe::{Pipe, Stream};
use crate::local::output::repeats::Words;
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::worker_handle::WorkerHandle;
use crate::local::process::descriptors;
use crate::local::process::descriptors::{above_standard, fill_standard};
use crate::local::process::exit_latch::ExitLatch;
use crate::local::process::reader::{WorkerConnection, listen};
use crate::local::process::watched::Watched;
use crate::local::signals::block_signals;
use crate::model::death::{ExitReason, WorkerExit};

/// Begins to start the workers that were asked for, as many at a time as there are cores; false if there are
/// none. What prevents a start is reported to the pool.
pub(crate) fn spawn_requested(shared: &Arc<PoolHandle>) -> bool {
    let numbers = shared.on_starts_begin();
    let begun = !numbers.is_empty();
    for number in numbers.clone() {
        match begin(shared, number) {
            Ok(thread) => shared.on_thread(thread),
            Err((death, error)) => {
                // This one and those behind it, which are not tried: they count as not started, or the pool
                // would wait for starts that no thread makes.
                let rest = (numbers.end - number) as usize;
                match limit_behind(&error) {
                    Some(limit) => shared.on_short(death, limit, rest),
                    None => shared.on_not_started(death, rest),
                }
                break;
            }
        }
    }
    begun
}

/// Starts a worker's thread, which starts the worker and lives as long as that.
fn begin(shared: &Arc<PoolHandle>, number: u64) -> Result<JoinHandle<()>, (WorkerExit, io::Error)> {
    let name = format!("worker-{number}");
    let thread = std::thread::Builder::new().name(format!("fastmap-{name}"));
    let (shared, own) = (Arc::clone(shared), name.clone());
    let live = move || {
        block_signals();
        // Before the worker starts, because it inherits the cores of this thread.
        cores::take_back();
        // A launcher may be another crate's code: its panic is a start that failed, and is counted down as
        // such.
        let started = catch_unwind(AssertUnwindSafe(|| start(&shared, number, &own)));
        match started.unwrap_or(Err(StartError::LauncherPanicked)) {
            Ok(Started { page, latch, server, process }) => {
                let peer = WorkerConnection {
                    shared: &shared,
                    id: number,
                    name: &own,
                    page: &page,
                    latch: &latch,
                    process,
                };
                listen(&peer, server);
            }
            Err(error) => {
                let death = not_started(own, error.to_string());
                match error.limit() {
                    Some(limit) => shared.on_short(death, limit, 1),
                    None => shared.on_not_started(death, 1),
                }
            }
        }
    };
    thread.spawn(live).map_err(|error| {
        let why = format!("cannot start a thread for it: {}", with_limit(&error));
        (not_started(name, why), error)
    })
}

fn not_started(worker: String, why: String) -> WorkerExit {
    WorkerExit { worker, pid: 0, cause: ExitReason::NotStarted(why), refused: None, stderr: Vec::new() }
}

/// What the reader of a worker needs of it.
struct Started {
    page: Arc<SharedPage>,
    latch: Arc<ExitLatch>,
    /// Where it connects.
    server: Arc<Rendezvous>,
    process: u32,
}

/// Why no worker has started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(
        "no descriptor is left for it: {0}; this process may have {most} open files: allow it more (ulimit -n)",
        most = descriptors::limit()
    )]
    Descriptors(io::Error),
    #[error("{step}: {}", with_limit(error))]
    System { step: Cow<'static, str>, error: io::Error },
    #[error("its launcher panicked")]
    LauncherPanicked,
}

impl StartError {
    /// The error of the system at this step.
    fn at(step: impl Into<Cow<'static, str>>) -> impl FnOnce(io::Error) -> StartError {
        let step = step.into();
        |error| StartError::System { step, error }
    }

    /// The limit of the system that is reached, if it is one.
    fn limit(&self) -> Option<String> {
        match self {
            StartError::Descriptors(_) => Some(descriptors::shortage()),
            StartError::System { error, .. } => limit_behind(error),
            StartError::LauncherPanicked => None,
        }
    }
}

/// The limit that the system has reached where it answers so, its value, and what to do.
fn limit_behind(error: &io::Error) -> Option<String> {
    let limit =
        |limit: Option<u64>| limit.map_or_else(|| "any number of".to_owned(), |most| most.to_string());
    match error.raw_os_error()? {
        libc::EAGAIN => Some(format!(
            "the system starts no more processes and threads: this user may have {} (ulimit -u), and the control group {} \
             (TasksMax= of systemd, a container's limit of pids); allow more",
            limit(getrlimit(Resource::Nproc).current),
            limit(most_processes())
        )),
        libc::ENOMEM => Some(format!(
            "the system gives no more memory: this process may have {} bytes of addresses (ulimit -v); allow more",
            limit(getrlimit(Resource::As).current)
        )),
        _ => None,
    }
}

/// The error, and the limit behind it or what else to do.
fn with_limit(error: &io::Error) -> String {
    match (limit_behind(error), error.raw_os_error()) {
        (Some(limit), _) => format!("{error}; {limit}"),
        (None, Some(libc::EAFNOSUPPORT)) => {
            format!("{error}; allow sockets of the family AF_UNIX (RestrictAddressFamilies= of systemd)")
        }
        (None, _) => error.to_string(),
    }
}

/// Starts a worker and makes it known to the pool and the supervisor; an error says why none came.
fn start(shared: &Arc<PoolHandle>, number: u64, name: &str) -> Result<Started, StartError> {
    // Also here, because the program may have closed one of them since the pool was made.
    fill_standard();
    // Before anything is opened: a start that fails half-way would have taken the program's last descriptors.
    shared.expect_descriptors().map_err(StartError::Descriptors)?;
    // Before the process: it connects as soon as it runs.
    let server = Arc::new(Rendezvous::new().map_err(StartError::at("cannot make its socket"))?);
    let (page, stdin) = SharedPage::create().map_err(StartError::at("cannot share memory with it"))?;
    let page = Arc::new(page);
    let marker = WorkerBootstrap {
        host: shared.owner,
        name: name.to_owned(),
        level: shared.options.level.unwrap_or_else(log::max_level),
        confinement: Confinement::Own(shared.options.sandbox),
        server: server.path().to_owned(),
    };
    let (mut command, guard) = match &shared.options.launcher {
        None => (own_program(shared, &marker), None),
        Some(launcher) => {
            let start = Start { name, socket: Path::new(server.path()), marker: &marker };
            let launch = launcher.launch(&start).map_err(StartError::at("cannot launch it"))?;
            (launch.command, Some(launch.guard))
        }
    };
    let ((stdout, its_stdout), (stderr, its_stderr)) =
        pipes().map_err(StartError::at("cannot make pipes for its output"))?;
    let mut child = command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(its_stdout))
        .stderr(Stdio::from(its_stderr))
        .spawn()
        .map_err(|error| {
            StartError::at(format!("cannot start {}", command.get_program().display()))(error)
        })?;
    // Its ends of the pipes and of the channel, without which these would never come to their end here.
    drop(command);
    let pid = child.id();
    if guard.is_none() {
        // After the start, because before it a `pre_exec` would be needed, with which std forks (see
        // `own_program`). The worker has no work yet, so that no function sees the raised limit.
        descriptors::lower_again(pid);
    }
    let output = (|| -> io::Result<_> {
        Ok((Pipe::new(stdout, Stream::Stdout)?, Pipe::new(stderr, Stream::Stderr)?))
    })();
    let (stdout, stderr) = match output {
        Ok(pipes) => pipes,
        Err(error) => {
            // The pool does not know the process yet: without this it would live on, and be a zombie
            // afterwards.
            drop(child.kill().and_then(|()| child.wait()));
            return Err(StartError::at("cannot read its output")(error));
        }
    };
    let pidfd = match death_of(pid) {
        Ok(pidfd) => pidfd,
        // No descriptor or thread is left: a process whose death can't be noticed is of no use.
        Err(error) => {
            drop(child.kill().and_then(|()| child.wait()));
            return Err(StartError::at("cannot watch it")(error));
        }
    };
    let latch = Arc::new(ExitLatch::new(Arc::clone(&server), shared.options.output));
    let outputs = [&stdout, &stderr].into_iter().filter_map(Pipe::open).cloned().collect();
    let watched = Watched {
        id: number,
        name: name.into(),
        pid,
        pidfd,
        stdout,
        stderr,
        guard,
        latch: Arc::clone(&latch),
        page: Arc::clone(&page),
        words: Words::default(),
        paused: None,
    };
    // Before its handshake is listened to: the pool must know a worker that connects.
    shared.on_spawned(WorkerHandle::new(number, name.to_owned(), child, Arc::clone(&page), outputs), watched);
    Ok(Started { page, latch, server, process: pid })
}

/// A descriptor that can be read from once that child is dead; `None`: it is gone.
fn death_of(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(child) = Pid::from_raw(pid as i32) else { return Ok(None) };
    match pidfd_open(child, PidfdFlags::empty()) {
        Ok(pidfd) => above_standard(pidfd).map(Some),
        // The kernel has reaped it by itself, as it does where the program ignores SIGCHLD.
        Err(Errno::SRCH) => Ok(None),
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(error.into()),
        // Kernels of containers and debuggers that play a kernel lack it; filters refuse it.
        Err(_) => wait_for_death(child).map(Some),
    }
}

/// The same by a thread that waits for the child and leaves it to be waited for.
fn wait_for_death(child: Pid) -> io::Result<OwnedFd> {
    let dead = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let dead = above_standard(OwnedFd::from(dead))?;
    let (tell, thread) = (dead.try_clone()?, std::thread::Builder::new());
    let wait = move || {
        block_signals();
        // The status is left for `reap`.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Any other error means that the child is gone: a handler of the program has waited for it.
        while matches!(waitid(WaitId::Pid(child), ended), Err(Errno::INTR)) {}
        // Fails only when the counter is full.
        let _told = rustix::io::write(tell, &1u64.to_ne_bytes());
    };
    thread.name("fastmap-death".to_owned()).spawn(wait)?;
    Ok(dead)
}

/// A pipe: the host's end, and the worker's.
type Output = (PipeReader, PipeWriter);

/// Pipes for what a worker prints. Std's own would get the numbers of standard streams that the program has closed.
fn pipes() -> io::Result<(Output, Output)> {
    let pipe = || -> io::Result<Output> {
        let (ours, its) = io::pipe()?;
        Ok((above_standard(ours)?, above_standard(its)?))
    };
    Ok((pipe()?, pipe()?))
}

/// The command that starts this very program as a worker.
fn own_program(shared: &PoolHandle, marker: &WorkerBootstrap) -> Command {
    let program = shared.options.program.clone().unwrap_or_else(|| executable_path().to_owned());
    // No `pre_exec`: with it std would fork, which takes 20 ms for a host of 1 GB; without, it uses posix_spawn.
    let mut command = Command::new(program);
    command
        .arg0(format!("{} [fastmap {}]", program_name(), marker.name))
        .env(MARKER, marker.to_string())
        .env_remove(INSIDE)
        // The secret of the cloud service is not for the function.
        .env_remove("FASTMAP_SECRET");
    if let Some(bytes) = shared.options.stack {
        command.env(STACK, bytes.to_string());
    }
    command
}

fn program_name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    path.as_deref()
        .and_then(|path| path.file_name())
        .map_or_else(|| "program".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::local::{LaunchedChild, Launcher, Local, LocalOptions};

    #[derive(Debug)]
    struct Hasty;

    impl Launcher for Hasty {
        fn launch(&self, _start: &Start<'_>) -> io::Result<LaunchedChild> {
            panic!("it launches nothing");
        }
    }

    #[test]
    fn a_launcher_that_panics_is_a_start_that_failed() {
        let options = LocalOptions { launcher: Some(Arc::new(Hasty)), ..LocalOptions::new(2) };
        let local = Local::new(options).expect("descriptors");
        for _ in 0..2 {
            let error = local.try_start(Duration::from_mins(1)).expect_err("no worker can come");
            assert!(error.to_string().contains("its launcher panicked"), "{error}");
        }
    }
}
