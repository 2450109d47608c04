//! How a worker comes into being: a thread of its own makes what it shares with the host, starts the process, hands it to
//! the supervisor, and listens to it from then on (`reader`). So workers come up side by side: `posix_spawn` returns only
//! when the new process runs its program, on whose core the caller then waits for a millisecond. And a worker's
//! parent-death signal is tied to the *thread* that started it, which lives as long as the worker.

use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::descriptors::{self, above_standard, fill_standard};
use super::greeting::{Confinement, INSIDE, MARKER, Marker, STACK};
use super::launch::Start;
use super::member::Member;
use super::page::Page;
use super::pool::Shared;
use super::reader::{Gate, Peer, listen};
use super::relay::{Pipe, Stream};
use super::repeats::Words;
use super::server::Server;
use super::supervisor::{Watched, block_signals};
use crate::completion::{Death, DeathCause};

/// Begins to start the workers that were asked for, as many as may be now; false if there are none. What prevents a start
/// is told to the pool.
pub(super) fn begin_requested(shared: &Arc<Shared>) -> bool {
    let numbers = shared.take_requested();
    let begun = !numbers.is_empty();
    for number in numbers.clone() {
        match begin(shared, number) {
            Ok(thread) => shared.lock().threads.push(thread),
            Err(death) => {
                shared.not_started(death, (numbers.end - number) as usize);
                break;
            }
        }
    }
    begun
}

/// Starts a worker's thread, which starts the worker and lives as long as that.
fn begin(shared: &Arc<Shared>, number: u64) -> Result<JoinHandle<()>, Death> {
    let name = format!("worker-{number}");
    let thread = std::thread::Builder::new().name(format!("fastmap-{name}"));
    let (shared, own) = (Arc::clone(shared), name.clone());
    let live = move || {
        block_signals();
        // A launcher may be anybody's.
        let started = catch_unwind(AssertUnwindSafe(|| start(&shared, number, &own)));
        match started.unwrap_or_else(|_| Err(Failure::Other("its launcher panicked".to_owned()))) {
            Ok(Started { page, gate, server, process }) => {
                let peer =
                    Peer { shared: &shared, id: number, name: &own, page: &page, gate: &gate, process };
                listen(&peer, server);
            }
            Err(Failure::Short(why)) => shared.short_of_descriptors(not_started(own, why)),
            Err(Failure::Other(why)) => shared.not_started(not_started(own, why), 1),
        }
    };
    thread.spawn(live).map_err(|error| not_started(name, format!("cannot start a thread for it: {error}")))
}

fn not_started(worker: String, why: String) -> Death {
    Death { worker, pid: 0, cause: DeathCause::NotStarted(why), refused: None, stderr: Vec::new() }
}

/// What the reader of a worker needs of it.
struct Started {
    page: Arc<Page>,
    gate: Arc<Gate>,
    /// Where it greets.
    server: Arc<Server>,
    process: u32,
}

/// Why no worker has started, in words.
enum Failure {
    /// Too few descriptors are left.
    Short(String),
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Other(why)
    }
}

/// Starts a worker and makes it known to the pool and the supervisor; an error says why none came.
fn start(shared: &Arc<Shared>, number: u64, name: &str) -> Result<Started, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    fill_standard();
    shared.expect_descriptors().map_err(Failure::Short)?;
    let server = Server::new().map_err(|error| failed("cannot make its socket", &error))?;
    let server = Arc::new(server);
    let (page, stdin) = Page::create().map_err(|error| failed("cannot share memory with it", &error))?;
    let page = Arc::new(page);
    let marker = Marker {
        host: shared.owner,
        name: name.to_owned(),
        level: shared.options.level.unwrap_or_else(log::max_level),
        confinement: Confinement::Own(shared.options.sandbox),
        server: server.path().to_owned(),
    };
    let (mut command, keeper) = match &shared.options.launcher {
        None => (own_program(shared, &marker), None),
        Some(launcher) => {
            let start = Start { name, socket: Path::new(server.path()), marker: &marker };
            let launch = launcher.launch(&start).map_err(|error| failed("cannot launch it", &error))?;
            (launch.command, Some(launch.keeper))
        }
    };
    let ((stdout, its_stdout), (stderr, its_stderr)) =
        pipes().map_err(|error| failed("cannot make pipes for its output", &error))?;
    let mut child = command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(its_stdout))
        .stderr(Stdio::from(its_stderr))
        .spawn()
        .map_err(|error| failed(&format!("cannot start {}", command.get_program().display()), &error))?;
    // Its ends of them.
    drop(command);
    let pid = child.id();
    if keeper.is_none() {
        descriptors::lower_again(pid);
    }
    let output = (|| -> io::Result<_> {
        Ok((Pipe::new(stdout, Stream::Stdout)?, Pipe::new(stderr, Stream::Stderr)?))
    })();
    let (stdout, stderr) = match output {
        Ok(pipes) => pipes,
        Err(error) => {
            drop(child.kill().and_then(|()| child.wait()));
            return Err(failed("cannot read its output", &error).into());
        }
    };
    let pidfd = match Pid::from_raw(pid as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(pidfd)) => Some(above_standard(pidfd).map_err(|error| failed("cannot watch it", &error))?),
        Some(Err(rustix::io::Errno::SRCH)) | None => None,
        // Not allowed here, or no descriptor left: a process whose death can't be noticed is of no use.
        Some(Err(error)) => {
            drop(child.kill().and_then(|()| child.wait()));
            return Err(failed("cannot watch it (pidfd_open)", &error).into());
        }
    };
    let gate = Arc::new(Gate::new(Arc::clone(&server), shared.options.output));
    let outputs = [&stdout, &stderr].into_iter().filter_map(Pipe::open).cloned().collect();
    let watched = Watched {
        id: number,
        name: name.into(),
        pid,
        pidfd,
        stdout,
        stderr,
        keeper,
        gate: Arc::clone(&gate),
        page: Arc::clone(&page),
        words: Words::default(),
        paused: None,
    };
    shared.came(Member::new(number, name.to_owned(), child, Arc::clone(&page), outputs), watched);
    Ok(Started { page, gate, server, process: pid })
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
fn own_program(shared: &Shared, marker: &Marker) -> Command {
    let program = shared.options.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
    // No `pre_exec`: with it std would fork, which takes 20 ms for a host of 1 GB; without, it uses posix_spawn.
    let mut command = Command::new(program);
    command
        .arg0(format!("{} [fastmap {}]", program_name(), marker.name))
        .env(MARKER, marker.to_string())
        .env_remove(INSIDE)
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
    use crate::local::{Launch, Launcher, Local, LocalOptions};

    #[derive(Debug)]
    struct Hasty;

    impl Launcher for Hasty {
        fn launch(&self, _start: &Start<'_>) -> io::Result<Launch> {
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
