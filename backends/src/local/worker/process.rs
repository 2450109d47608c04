//! A worker process from its first line to its last.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{Pid, getppid};

use crate::local::cores;
use crate::local::ipc::handshake::{Confinement, INSIDE, MARKER, WorkerBootstrap};
use crate::local::process::descendants;
use crate::local::worker::runner::Worker;
use crate::local::worker::setup::{NOT_A_WORKER, SetupError, refuse, thread_name};

static WORKER: AtomicBool = AtomicBool::new(false);

/// Whether this process is a worker, or was started by one. Maps in it run sequentially on their own thread.
pub fn inside_worker() -> bool {
    WORKER.load(Ordering::Relaxed) || std::env::var_os(INSIDE).is_some()
}

/// Whether this process was started to be a worker and has not become one: its `main` went past `enter`.
pub fn marked() -> bool {
    std::env::var_os(MARKER).is_some()
}

/// Ends a process that was started as a worker but runs the user's program instead.
pub fn leave_unentered() -> ! {
    eprintln!(
        "fastmap: this process was started as a worker and came to user code without being entered; \
         begin `main` with fastmap_main! or fastmap::enter() on every path"
    );
    exit(NOT_A_WORKER)
}

/// Becomes a worker if this process was started as one, and then never returns. In a host it returns at once.
///
/// To be called before anything else: before threads are started and before files are opened.
pub fn enter() {
    enter_after(|| ());
}

/// [`enter`] for a constructor of the program, which runs before `main`: a worker calls `others` before it begins, which
/// calls those constructors that would come later.
pub fn enter_after(others: impl FnOnce()) {
    cores::note_at_main();
    // Taken away below before anything can fail: nothing that this process starts may take itself for the
    // worker.
    let Some(value) = std::env::var_os(MARKER) else { return };
    // SAFETY: `enter` is the first statement of the program, before any thread that could read the environment.
    unsafe { std::env::remove_var(MARKER) };
    let marker = WorkerBootstrap::parse(&value).unwrap_or_else(|why| refuse(&why));
    let inherited = descendants::inherited(&marker.name, &marker.server);
    if getppid() != Pid::from_raw(marker.host as i32) {
        if matches!(marker.confinement, Confinement::Own(_)) && is_gone(marker.host) {
            // The host died while this process was on its way. Nothing is left to work for, and the user's
            // program must not run here in its place.
            exit(0);
        }
        // The marker has come through a worker that did not enter, and whose program has started this
        // process. It must not become a host, or each generation would start the next: its maps run in this
        // process. SAFETY: as above.
        unsafe { std::env::set_var(INSIDE, inherited) };
        return;
    }
    // Relaxed, because there is one thread: those that are started later see it.
    WORKER.store(true, Ordering::Relaxed);
    // Before the worker begins, which does not return: registries and statics are then as in the host.
    others();
    cores::take_back();
    let worker = Worker::report(&marker).unwrap_or_else(|why| refuse(&why));
    let thread = crate::local::worker::thread::start(&thread_name(&marker), worker);
    let thread = thread.unwrap_or_else(|error| refuse(&SetupError::Thread(error)));
    crate::local::worker::guard::wait(marker.host);
    // The thread ends the process, so that this wait does not end otherwise.
    drop(thread.join());
    exit(NOT_A_WORKER)
}

/// Whether a process has ended. A zombie has, too: no process has waited for it yet.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
