//! What a worker's main thread does while another computes: it waits for the host's death, and then ends the
//! worker with all that the function has started. The kernel's own way, SIGKILL at the parent's death, would
//! leave that behind. Where a function can't start processes (confined, in a jail) the kernel's way is kept,
//! and the main thread does nothing. Called by `process` and `thread`.

use std::os::raw::c_int;
use std::time::Duration;

use nix::sys::signal::{SigEvent, SigSet, SigevNotify, Signal, raise};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::{Pid, getppid};

use crate::local::process::descendants;

/// The worker is dead after this time, whatever its function has done to memory and locks that are needed
/// here.
const PATIENCE: Duration = Duration::from_secs(1);

/// The signal of the host's death. No thread takes it but the main one, which waits for it.
fn host_died() -> c_int {
    libc::SIGRTMAX() - 3
}

/// The signals that the function's thread does not take.
pub(super) fn blocked() -> libc::sigset_t {
    let mut set = *SigSet::empty().as_ref();
    if descendants::are_kept() {
        // SAFETY: adds to a set that is initialised.
        unsafe { libc::sigaddset(&raw mut set, host_died()) };
    }
    set
}

/// Has the kernel continue this process at the host's death, if it is stopped then. (Each thread has a signal
/// of its own for that.)
pub(super) fn continue_at_death() {
    if descendants::are_kept() {
        set_death_signal(libc::SIGCONT);
    }
}

/// Waits for the host's death and ends this process. Returns at once where the kernel does so.
pub(super) fn wait(host: u32) {
    if !descendants::are_kept() {
        return;
    }
    let set = blocked();
    // Before the parent is looked at: a host that dies later sends the signal, and one that has died before
    // is seen by the look.
    set_death_signal(host_died());
    // The signal comes, too, when the host's thread ends that has started this process.
    while getppid() == Pid::from_raw(host.cast_signed()) {
        // SAFETY: waits for a signal of the set, and stores nothing.
        unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
    }
    let kill = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
    // The kernel's timer needs none of this process's locks, which the function may hold for ever.
    let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(kill));
    let _set = timer.map(|mut timer| {
        let _set = timer.set(Expiration::OneShot(PATIENCE.into()), TimerSetTimeFlags::empty());
        // It holds until the end.
        std::mem::forget(timer);
    });
    descendants::end_own();
    let _ended = raise(Signal::SIGKILL);
}

fn set_death_signal(signal: c_int) {
    // SAFETY: changes an attribute of the calling thread.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}
