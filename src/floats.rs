//! Floating point mode of a thread: rounding, and what becomes of numbers too small to be normal. Read
//! where a map begins; a mode that is not the default travels behind the context, and holds for the map's
//! tasks.
//!
//! Threads of a program inherit the mode; workers are processes and begin with the default one. So equal
//! items of one map had other results in a worker than in the calling thread, where the option `inline` let
//! it take some of them.

use std::io;

use fastmap_backends::{Context, FailureKind, ItemFailure, Task, Work};

/// Bytes of a mode.
const BYTES: usize = size_of::<u64>();

/// Control bits of a thread's floating point units. It has no mode on machines that are not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(u64);

#[cfg(target_arch = "x86_64")]
mod unit {
    use std::arch::asm;

    /// All exceptions masked, to the nearest; of the x87, to 64 bits.
    pub(super) const DEFAULT: u64 = 0x037F_0000_1F80;
    /// What of the SSE's register is control: the rest tells which exceptions there were.
    const CONTROL: u32 = 0xFFC0;

    pub(super) fn read() -> u64 {
        let mut sse = 0_u32;
        let mut x87 = 0_u16;
        // SAFETY: both instructions store a register into a variable of its width.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut sse, options(nostack, preserves_flags));
            asm!("fnstcw [{}]", in(reg) &raw mut x87, options(nostack, preserves_flags));
        }
        u64::from(x87) << 32 | u64::from(sse & CONTROL)
    }

    pub(super) fn set(mode: u64) {
        let sse = mode as u32 & CONTROL;
        let x87 = (mode >> 32) as u16;
        // SAFETY: both instructions load a register from a variable of its width. No reserved bit is set:
        // the mode was read from these registers. The compiler reckons with the default mode: as in the
        // calling thread, whose function this is, it may compute constants in that.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const sse, options(nostack, readonly));
            asm!("fldcw [{}]", in(reg) &raw const x87, options(nostack, readonly));
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod unit {
    use std::arch::asm;

    pub(super) const DEFAULT: u64 = 0;

    pub(super) fn read() -> u64 {
        let mode: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags)) };
        mode
    }

    pub(super) fn set(mode: u64) {
        // SAFETY: writes a register with what was read from it. See the other machine's about the compiler.
        unsafe { asm!("msr fpcr, {}", in(reg) mode, options(nostack)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod unit {
    pub(super) const DEFAULT: u64 = 0;

    pub(super) fn read() -> u64 {
        DEFAULT
    }

    pub(super) fn set(_: u64) {}
}

impl Mode {
    /// The calling thread's mode, if it is not the default.
    pub(crate) fn unusual() -> Option<Self> {
        let mode = unit::read();
        (mode != unit::DEFAULT).then_some(Mode(mode))
    }

    /// The context with the mode behind it.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(crate) fn append_to(self, context: &Context) -> io::Result<Context> {
        let mut writer = Context::writer();
        writer.extend(context)?;
        writer.extend(&self.0.to_le_bytes())?;
        writer.finish()
    }

    /// Calls `work` in this mode, which is then what the work left: a function may change it for the items
    /// behind.
    fn around<O>(&mut self, work: impl FnOnce() -> O) -> O {
        let within = Within { mode: self, before: unit::read() };
        unit::set(within.mode.0);
        work()
    }
}

/// The thread's own mode comes back when this is dropped, be it by a panic.
struct Within<'a> {
    mode: &'a mut Mode,
    before: u64,
}

impl Drop for Within<'_> {
    fn drop(&mut self) {
        self.mode.0 = unit::read();
        unit::set(self.before);
    }
}

/// A task in a mode.
struct InMode {
    mode: Mode,
    task: Box<dyn Task>,
}

impl Task for InMode {
    fn result_stride(&self) -> Option<u32> {
        self.task.result_stride()
    }

    fn run(&mut self, work: &mut Work<'_>) {
        let task = &mut self.task;
        self.mode.around(|| task.run(work));
    }
}

/// A task that `start` makes of a context with a mode behind it; both run in that mode.
pub(crate) fn start_in_mode(
    context: &[u8],
    start: impl FnOnce(&[u8]) -> Result<Box<dyn Task>, ItemFailure>,
) -> Result<Box<dyn Task>, ItemFailure> {
    let Some((context, mode)) = context.split_last_chunk::<BYTES>() else {
        let message = "no floating point mode lies behind the context".to_owned();
        return Err(ItemFailure { offset: 0, kind: FailureKind::Serialize, message });
    };
    let mut mode = Mode(u64::from_le_bytes(*mode));
    let task = mode.around(|| start(context))?;
    Ok(Box::new(InMode { mode, task }))
}
