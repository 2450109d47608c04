//! The thread that runs a worker's functions: its stack has a size that libraries can ask for. Of the main
//! thread's stack the C library knows only what `/proc/self/maps` says, which no confined process may read: a
//! library that looks how much stack is left (`stacker`, a garbage collector) then takes all of it for used
//! up, at each call. Started by the main thread, which computes nothing afterwards.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use super::guard;
use crate::local::affinity::to_come_back_to;
use crate::local::ipc::handshake::STACK;
use crate::local::signals::block_signals;
use crate::local::worker::runner::Worker;

/// Bytes of stack where the system sets no limit (`ulimit -s unlimited`). Only what is used of it takes
/// memory.
const UNLIMITED: usize = 1 << 30;
/// A worker with less stack is not started.
const LEAST: usize = 1 << 20;
/// Bytes of addresses below the stack that stay unused, as the kernel leaves them below that of a main
/// thread. A thread's own guard is one page, which a C function with a larger frame would jump over.
const GAP: usize = 1 << 20;
/// The exit code of a program whose main thread panicked.
const PANICKED: i32 = 101;

/// Runs the worker on a thread of that name, which ends the process. The calling thread takes no signals from
/// then on but SIGTERM, which does nothing (see `outlive` in `setup`) and so need not interrupt a
/// call of the function: all others are delivered to the function, as in a program that calls it itself.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start(name: &str, worker: Worker) -> io::Result<JoinHandle<()>> {
    block_signals();
    // Shared, because a spawn that fails drops its closure, and the next attempt needs the worker.
    let worker = Arc::new(Mutex::new(Some(worker)));
    let asked = asked_stack();
    let mut stack = asked.unwrap_or_else(stack_size);
    let pinned = stay_here();
    loop {
        let taken = Arc::clone(&worker);
        let thread = Builder::new().name(name.to_owned()).stack_size(stack).spawn(move || {
            // The new thread has inherited the mask of one core.
            leave(pinned.as_ref());
            take_signals();
            guard::continue_at_death();
            keep_gap();
            let worker = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            let _told = catch_unwind(AssertUnwindSafe(|| worker.map(|worker| worker.work())));
            exit(PANICKED);
        });
        match thread {
            // So many addresses are not to be had: under a limit (`ulimit -v`), or on a small machine.
            Err(_) if asked.is_none() && stack / 2 >= LEAST => stack /= 2,
            Err(error) => {
                leave(pinned.as_ref());
                return Err(io::Error::new(error.kind(), format!("with a stack of {stack} bytes: {error}")));
            }
            started => {
                leave(pinned.as_ref());
                let mut termination = SigSet::empty();
                termination.add(Signal::SIGTERM);
                let _unchanged = termination.thread_unblock();
                return started;
            }
        }
    }
}

/// Keeps this thread on the core where it runs, and gives the mask that gives it its cores back. What it starts
/// begins there, and runs as soon as this thread waits; elsewhere it would wait behind another worker that
/// comes up.
fn stay_here() -> Option<CpuSet> {
    let all = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut here = CpuSet::new();
    here.set(sched_getcpu().ok()?).ok()?;
    // The mask is the thread's wish from now on: one of these cores alone would keep it off those that its
    // control group is given later.
    let back = to_come_back_to(all);
    if sched_setaffinity(Pid::from_raw(0), &here).is_err() {
        leave(Some(&all));
        return None;
    }
    Some(back)
}

/// Gives this thread its cores back.
fn leave(pinned: Option<&CpuSet>) {
    if let Some(cores) = pinned {
        let _unchanged = sched_setaffinity(Pid::from_raw(0), cores);
    }
}

/// Lets this thread take the signals of the process.
fn take_signals() {
    let blocked = guard::blocked();
    // SAFETY: sets the mask of the calling thread to a set that is initialised.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, std::ptr::null_mut()) };
}

/// The size that the program has asked for.
fn asked_stack() -> Option<usize> {
    std::env::var(STACK).ok()?.trim().parse().ok().map(|bytes: usize| bytes.max(LEAST))
}

/// The size that a main thread's stack may come to.
fn stack_size() -> usize {
    match getrlimit(Resource::RLIMIT_STACK) {
        Ok((limit, _)) if limit != RLIM_INFINITY => usize::try_from(limit).unwrap_or(UNLIMITED).max(LEAST),
        _ => UNLIMITED,
    }
}

/// Takes the addresses below this thread's stack, where they are free.
fn keep_gap() {
    // SAFETY: plain data, for which zeroes are valid, filled by the call before anything reads it; what is
    // mapped is taken from nothing else (MAP_FIXED_NOREPLACE), and never used.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        // An error, here or from `mmap`, leaves the stack with its own guard alone, as any thread has it.
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return;
        }
        let (mut lowest, mut size, mut guard) = (std::ptr::null_mut(), 0, 0);
        libc::pthread_attr_getstack(&raw const attributes, &raw mut lowest, &raw mut size);
        libc::pthread_attr_getguardsize(&raw const attributes, &raw mut guard);
        libc::pthread_attr_destroy(&raw mut attributes);
        let gap = lowest.wrapping_byte_sub(guard + GAP);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        libc::mmap(gap, GAP, libc::PROT_NONE, flags, -1, 0);
    }
}
