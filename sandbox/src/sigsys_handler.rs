//! The signal handler to which a refused call comes: it writes down which, and lets the call return EPERM. Installed by
//! `seccomp`. All of it runs in a signal, at any place of the program: nothing here allocates, locks or panics.
//!
//! Calls that name a file are decided in `path_calls`. Two more come here to be done otherwise: the signal itself
//! stays unblocked, and keeps this handler.

use std::ffi::{c_int, c_void};
use std::io;

use crate::calls::ASKED;
use crate::path_calls;
use crate::refusal_notes::{is_path, note, returned};

/// `si_code` of a signal that a filter raised.
const SYS_SECCOMP: c_int = 1;

/// Takes SIGSYS.
pub(crate) fn install() -> io::Result<()> {
    let entry: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = refuse;
    // SAFETY: a sigaction of zeroes is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = entry as usize;
    // On the alternate stack, where there is one: the call may have been made at the end of the usual one. Not
    // blocked meanwhile: a blocked SIGSYS is deadly, should a call in here be refused.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what may be done in a signal.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of a set of signals, and the bit of the filters' own, as the kernel has them.
const SET: usize = size_of::<u64>();
const SIGSYS: u64 = 1 << (libc::SIGSYS - 1);

/// What the kernel keeps of a signal: handler, flags, where the handler returns to, signals that are blocked
/// meanwhile.
type Action = [u64; 4];
const DEFAULT: Action = [libc::SIG_DFL as u64, 0, 0, 0];

/// Number and arguments of a call as they stand in the registers, and where its result goes.
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
    // SAFETY: with SA_SIGINFO the kernel passes both on, valid until the handler returns.
    let (code, context) = unsafe { ((*info).si_code, &mut *context.cast::<libc::ucontext_t>()) };
    if code != SYS_SECCOMP {
        // Somebody else's signal: as if there were no handler.
        // SAFETY: both may be called in a signal; the second ends the process when this returns, at the latest.
        unsafe {
            set_action(signal as u64, &DEFAULT);
            libc::raise(signal);
        }
        return;
    }
    // SAFETY: a location of this thread's own.
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

/// Blocks signals as the call asks, but not the filters' own. The mask that holds when this handler returns is in
/// the context.
fn set_mask(registers: &mut Registers<'_>) -> i64 {
    let [how, set, before, size] = [0, 1, 2, 3].map(|at| registers.argument(at));
    let mut mask = 0u64;
    // SAFETY: the call that the function made, with the argument by which the filter lets it pass; and a look
    // at the mask.
    unsafe {
        let done = returned(libc::syscall(libc::SYS_rt_sigprocmask, how, set, before, size, 0u64, ASKED));
        if done != 0 {
            return done;
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, 0u64, &raw mut mask, SET);
    }
    // SAFETY: the kernel's set is the first part of the C library's.
    unsafe { (&raw mut registers.context.uc_sigmask).cast::<u64>().write_unaligned(mask & !SIGSYS) };
    0
}

/// Changes what a signal does, as the call asks: for the filters' own nothing, and for others not so that it is
/// blocked while their handler runs.
fn take_action(registers: &Registers<'_>) -> i64 {
    let [signal, action, before, size] = [0, 1, 2, 3].map(|at| registers.argument(at));
    let own = signal as u32 == libc::SIGSYS as u32;
    // SAFETY: the call that the function made, with the argument by which the filter lets it pass.
    let done = returned(unsafe {
        let action = if own { 0 } else { action };
        libc::syscall(libc::SYS_rt_sigaction, signal, action, before, size, 0u64, ASKED)
    });
    let mut now = DEFAULT;
    // SAFETY: the kernel writes what it keeps of a signal, which has that size.
    let read = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0u64, &raw mut now, SET) };
    if done == 0 && !own && read == 0 && now[3] & SIGSYS != 0 {
        now[3] &= !SIGSYS;
        // SAFETY: what the function has set, but for the one signal.
        unsafe { set_action(signal, &now) };
    }
    done
}

/// # Safety
/// The handler in it may run.
unsafe fn set_action(signal: u64, action: &Action) {
    let action = std::ptr::from_ref(action);
    // SAFETY: the kernel reads an action of that layout; otherwise this function's own.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, 0u64, SET, 0u64, ASKED) };
}

/// What the call returns.
fn decide(registers: &Registers<'_>) -> i64 {
    let number = registers.call();
    if number == libc::SYS_rt_sigaction {
        return take_action(registers);
    }
    if let Some(result) = path_calls::decide(number, std::array::from_fn(|at| registers.argument(at))) {
        return result;
    }
    // It names a thread, and no filter knows the threads of a process. (musl raises signals by it.)
    if number == libc::SYS_tkill {
        let own = std::process::id();
        // SAFETY: plain numbers; a signal to a thread of this process.
        let sent =
            unsafe { libc::syscall(libc::SYS_tgkill, own, registers.argument(0), registers.argument(1)) };
        // SAFETY: a location of this thread's own.
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
