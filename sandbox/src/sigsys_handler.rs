//! Handler of the SIGSYS that a denied call raises: it records the call and makes it return EPERM. Installed
//! by `seccomp`. It runs in a signal, at any point of the program, so it does not allocate, lock or panic.
//!
//! `path_calls` decides on calls that name a file. Two other calls are executed here in a modified form, so
//! that SIGSYS stays unblocked and keeps this handler.

use std::ffi::{c_int, c_void};
use std::io;

use crate::calls::MARKER;
use crate::path_calls;
use crate::refusal_notes::{is_path, note, returned};

/// `si_code` of a signal raised by a filter.
const SYS_SECCOMP: c_int = 1;

/// Installs the handler of SIGSYS.
pub(crate) fn install() -> io::Result<()> {
    let entry: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = refuse;
    // SAFETY: a zeroed sigaction is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = entry as usize;
    // SA_ONSTACK: use the alternate stack if there is one, because the call may have been made at the end of
    // the normal one. SA_NODEFER: if this handler makes a denied call while SIGSYS is blocked, the kernel
    // kills the process.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO requires, and is async-signal-safe.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's size of a signal set in bytes, and the bit of SIGSYS in it.
const SIGSET_SIZE: usize = size_of::<u64>();
const SIGSYS: u64 = 1 << (libc::SIGSYS - 1);

/// The kernel's `struct sigaction`: handler, flags, restorer, mask.
type Action = [u64; 4];
const DEFAULT: Action = [libc::SIG_DFL as u64, 0, 0, 0];

/// Registers with the number, the arguments and the result of a call.
struct Registers<'a> {
    context: &'a mut libc::ucontext_t,
}

#[cfg(target_arch = "x86_64")]
impl Registers<'_> {
    fn call(&self) -> i64 {
        self.context.uc_mcontext.gregs[libc::REG_RAX as usize]
    }

    fn argument(&self, at: usize) -> u64 {
        let names = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9];
        names.get(at).map_or(0, |name| self.context.uc_mcontext.gregs[*name as usize] as u64)
    }

    fn answer(&mut self, result: i64) {
        self.context.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers<'_> {
    fn call(&self) -> i64 {
        self.context.uc_mcontext.regs[8] as i64
    }

    fn argument(&self, at: usize) -> u64 {
        self.context.uc_mcontext.regs.get(at).copied().unwrap_or(0)
    }

    fn answer(&mut self, result: i64) {
        self.context.uc_mcontext.regs[0] = result as u64;
    }
}

extern "C" fn refuse(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes both pointers, valid until the handler returns.
    let (code, context) = unsafe { ((*info).si_code, &mut *context.cast::<libc::ucontext_t>()) };
    if code != SYS_SECCOMP {
        // The signal was not raised by a filter: act as without a handler. SAFETY: both calls are
        // async-signal-safe; the second kills the process at the latest when this handler returns.
        unsafe {
            set_action(signal as u64, &DEFAULT);
            libc::raise(signal);
        }
        return;
    }
    // SAFETY: errno is thread-local.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let mut registers = Registers { context };
    let result = match registers.call() {
        libc::SYS_rt_sigprocmask => set_mask(&mut registers),
        _ => decide(&registers),
    };
    registers.answer(result);
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Executes the call's change of the signal mask, but keeps SIGSYS unblocked. The context contains the mask
/// that is restored when this handler returns.
fn set_mask(registers: &mut Registers<'_>) -> i64 {
    let [how, set, before, size] = [0, 1, 2, 3].map(|at| registers.argument(at));
    let mut mask = 0u64;
    // SAFETY: the user's call, plus the marker by which the filter allows it; then a read of the mask.
    unsafe {
        let done = returned(libc::syscall(libc::SYS_rt_sigprocmask, how, set, before, size, 0u64, MARKER));
        if done != 0 {
            return done;
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, 0u64, &raw mut mask, SIGSET_SIZE);
    }
    // SAFETY: the kernel's set is the first part of the C library's set.
    unsafe { (&raw mut registers.context.uc_sigmask).cast::<u64>().write_unaligned(mask & !SIGSYS) };
    0
}

/// Executes the call's change of a signal action, except for SIGSYS. SIGSYS is also removed from the mask of
/// other signals' handlers.
fn take_action(registers: &Registers<'_>) -> i64 {
    let [signal, action, before, size] = [0, 1, 2, 3].map(|at| registers.argument(at));
    let own = signal as u32 == libc::SIGSYS as u32;
    // SAFETY: the user's call, plus the marker by which the filter allows it.
    let done = returned(unsafe {
        let action = if own { 0 } else { action };
        libc::syscall(libc::SYS_rt_sigaction, signal, action, before, size, 0u64, MARKER)
    });
    let mut now = DEFAULT;
    // SAFETY: the kernel writes its `struct sigaction`, and `now` has that layout.
    let read = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0u64, &raw mut now, SIGSET_SIZE) };
    if done == 0 && !own && read == 0 && now[3] & SIGSYS != 0 {
        now[3] &= !SIGSYS;
        // SAFETY: the action that the user has set, except for one bit of its mask.
        unsafe { set_action(signal, &now) };
    }
    done
}

/// # Safety
/// The handler in `action` must be valid.
unsafe fn set_action(signal: u64, action: &Action) {
    let action = std::ptr::from_ref(action);
    // SAFETY: the kernel reads an action of that layout; the rest is this function's contract.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, 0u64, SIGSET_SIZE, 0u64, MARKER) };
}

/// Returns the call's result.
fn decide(registers: &Registers<'_>) -> i64 {
    let number = registers.call();
    if number == libc::SYS_rt_sigaction {
        return take_action(registers);
    }
    if let Some(result) = path_calls::decide(number, std::array::from_fn(|at| registers.argument(at))) {
        return result;
    }
    // `tkill` names a thread, and a filter can't know the threads of a process. (musl's `raise` uses it.)
    if number == libc::SYS_tkill {
        let own = std::process::id();
        // SAFETY: plain numbers; sends a signal to a thread of this process.
        let sent =
            unsafe { libc::syscall(libc::SYS_tgkill, own, registers.argument(0), registers.argument(1)) };
        // SAFETY: errno is thread-local.
        match if sent == 0 { 0 } else { unsafe { *libc::__errno_location() } } {
            libc::ESRCH => {}
            why => return -i64::from(why),
        }
    }
    let path = crate::calls::find(number).and_then(|call| call.path);
    let path = path.map_or(0, |at| registers.argument(at));
    note(number, is_path(libc::AT_FDCWD as u64, path).then_some(path));
    -i64::from(libc::EPERM)
}
