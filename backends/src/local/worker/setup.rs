//! What a worker settles about its process before anything else: signals, and standard input, which is its
//! channel. Descriptors that were open before are left alone: the program's constructors and preloaded
//! libraries (profilers, tracers) have opened them, or the program's caller has. Called by `runner`, once,
//! before there is a second thread.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::raw::c_int;
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::{fmt, io};

use fastmap_sandbox::MissingFeature;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};
use nix::unistd::{dup2_stdin, getpid};

use crate::local::ipc::handshake::WorkerBootstrap;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::process::descriptors;

/// Descriptors that ipc-channel uses for a handshake, at most.
const GREETING: usize = 4;

/// The process that outlives SIGTERM.
static WORKER: AtomicI32 = AtomicI32::new(0);

/// The host decides about the signals that a whole process group gets, from a terminal or a service manager;
/// a dead host shows as an error of a send, not as SIGPIPE; and what the host ignores is not ignored for what
/// the function starts.
pub(crate) fn reset_signals() -> nix::Result<()> {
    for (number, handler) in [
        (Signal::SIGINT, SigHandler::SigIgn),
        (Signal::SIGHUP, SigHandler::SigIgn),
        (Signal::SIGPIPE, SigHandler::SigIgn),
        (Signal::SIGCHLD, SigHandler::SigDfl),
    ] {
        // SAFETY: both handlers are the kernel's own; no code of ours runs in a signal.
        unsafe { signal(number, handler) }?;
    }
    // Not ignored, because a program that the function starts would inherit that, and could not be ended by
    // `timeout`. The number is stored before the handler is there, which reads it; relaxed, because there is
    // one thread.
    WORKER.store(getpid().as_raw(), Ordering::Relaxed);
    let flags = SaFlags::SA_RESTART | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::SigAction(outlive), flags, SigSet::empty());
    // SAFETY: the handler calls only what may be called in a signal handler.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    // The thread that starts workers blocks signals, and a mask is inherited. What came meanwhile is
    // delivered now.
    SigSet::empty().thread_set_mask()
}

/// Lets SIGTERM pass that comes from outside: it was meant for the host, whose end ends this process. The
/// signal ends this process as by default where the process sends it to itself, and it ends a copy that the
/// function has made (`fork`).
extern "C" fn outlive(number: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: these calls may be made in a signal handler; the kernel hands in the information about this
    // signal.
    unsafe {
        let this = libc::getpid();
        if this != WORKER.load(Ordering::Relaxed) || (*info).si_pid() == this {
            // It is blocked here, and delivered when this handler returns.
            libc::signal(number, libc::SIG_DFL);
            libc::raise(number);
        }
    }
}

/// Takes the page from standard input, which then is `/dev/null`.
pub(crate) fn take_stdin() -> io::Result<SharedPage> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    // In one step: number 0 is never free, so that no other open can get it. What reads standard input finds
    // its end.
    dup2_stdin(&null)?;
    SharedPage::open(fd)
}

/// Sees whether there are descriptors for the handshake: ipc-channel panics where there are none.
pub(crate) fn expect_descriptors(page: &SharedPage) -> io::Result<()> {
    descriptors::expect(page.channel.as_fd(), GREETING)
}

/// Exit code of a process that was marked as a worker and can't be one.
pub(crate) const NOT_A_WORKER: i32 = 113;

/// The name that tools show of a worker, and of the thread in it that computes.
pub(crate) fn thread_name(marker: &WorkerBootstrap) -> String {
    format!("fm-{}", marker.name)
}

/// What kept a process from becoming a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("PR_SET_PDEATHSIG: {0}")]
    DeathSignal(nix::Error),
    #[error("signals: {0}")]
    Signals(nix::Error),
    #[error("standard input: {0}")]
    Stdin(io::Error),
    #[error("descriptors: {0}")]
    Descriptors(io::Error),
    #[error("connecting to {server}: {error}")]
    Connect { server: String, error: io::Error },
    #[error("greeting the host: {0}")]
    Greeting(ipc_channel::IpcError),
    #[error("the sandbox: {0}")]
    Sandbox(MissingFeature),
    #[error("timer: {0}")]
    Timer(io::Error),
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

/// Ends a process that was marked as a worker and can't be one.
pub(crate) fn refuse(why: &dyn fmt::Display) -> ! {
    eprintln!("fastmap: this worker can't begin: {why}");
    exit(NOT_A_WORKER)
}
