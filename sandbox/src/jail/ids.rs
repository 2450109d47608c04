//! Process IDs and host names that differ from worker to worker. Each jail has a PID namespace in which
//! bubblewrap is 1, so every worker would be 2. C programs often seed random numbers by time and process ID:
//! all workers started in the same second would draw the same numbers.
//!
//! The kernel assigns the namespace's last ID plus one. bubblewrap does not set the last ID, so a helper
//! process sets it. The helper lives beside bubblewrap for some hundred microseconds: bubblewrap writes its
//! child's ID (`--info-fd`) and waits before it starts the worker (`--block-fd`); the helper enters the
//! namespace, sets the last ID, and unblocks bubblewrap. This needs no privileges, because a namespace
//! belongs to the user who created it. If it fails, the worker has a small ID.
//!
//! The helper is a separate process that shares the memory of the forked child until the child becomes
//! bubblewrap; from then on the helper alone has that memory. It is started between fork and exec in a
//! multithreaded process: it allocates nothing, takes no lock, and makes system calls only.

use std::ffi::{CStr, c_int, c_long, c_void};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Lowest ID that is assigned. Lower ones look like those of a machine's own services.
const LOWEST: u32 = 1000;
/// The kernel's default of `pid_max`.
const DEFAULT_PID_MAX: u32 = 32_768;
/// Distance between the IDs of one service's workers. With adjacent IDs, `time ^ pid` would repeat in
/// adjacent seconds.
const STEP: u32 = 7919;
/// Stack size of the helper, and of its child, in bytes.
const STACK: usize = 16 << 10;
/// Maximum number of IDs that are skipped, by starting processes, where the last ID can't be set.
const MAX_SKIPPED_IDS: u32 = 61;
/// `ioctl` request for the user namespace that owns a namespace.
const NS_GET_USERNS: c_long = 0xb701;
const LAST_ID: &CStr = c"/proc/sys/kernel/ns_last_pid";

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns a random host name, so that no other worker on any machine has it.
pub(super) fn hostname() -> String {
    format!("fastmap-{:08x}", random() as u32)
}

/// Returns the next process ID. IDs of this service's workers repeat only after all others have been used.
fn next_id() -> u32 {
    static FIRST: OnceLock<(u32, u32)> = OnceLock::new();
    static WORKERS: AtomicU32 = AtomicU32::new(0);
    let (first, span) = *FIRST.get_or_init(|| {
        let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
        let pid_max = pid_max.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_PID_MAX);
        // Leaves IDs for the worker's threads.
        let span = pid_max.saturating_sub(2 * LOWEST).max(1);
        (random() as u32 % span, span)
    });
    let worker = u64::from(WORKERS.fetch_add(1, Ordering::Relaxed));
    LOWEST + ((u64::from(first) + worker * u64::from(STEP)) % u64::from(span)) as u32
}

/// Gives one worker its process ID. It must not move until bubblewrap has been started.
#[derive(Debug)]
pub(super) struct Helper {
    /// Descriptors whose numbers bubblewrap's arguments contain. Pipes replace them between fork and exec, so
    /// that the service never holds an end of a pipe: either side's wait ends when the other dies.
    info: OwnedFd,
    block: OwnedFd,
    id: u32,
    stack: Vec<u8>,
    /// The helper's own ends of the two pipes.
    info_reader: AtomicI32,
    block_writer: AtomicI32,
}

impl Helper {
    /// `placeholders` are two descriptors of any kind that this helper alone uses.
    pub(super) fn new(placeholders: [OwnedFd; 2]) -> Helper {
        let [info, block] = placeholders;
        let (info_reader, block_writer) = (AtomicI32::new(-1), AtomicI32::new(-1));
        Helper { info, block, id: next_id(), stack: vec![0; 2 * STACK], info_reader, block_writer }
    }

    /// Returns the descriptors that bubblewrap must inherit.
    pub(super) fn inherited(&self) -> [RawFd; 2] {
        [self.info.as_raw_fd(), self.block.as_raw_fd()]
    }

    /// Returns bubblewrap's options.
    pub(super) fn options(&self) -> [String; 4] {
        let [info, block] = self.inherited().map(|fd| fd.to_string());
        ["--info-fd".to_owned(), info, "--block-fd".to_owned(), block]
    }

    /// Makes the pipes. Called between fork and exec, before the limit of descriptors is set.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let (info_reader, info) = pipe()?;
        let (block, block_writer) = pipe()?;
        for (end, place) in [info, block].into_iter().zip(self.inherited()) {
            system(libc::SYS_dup3, [end as usize, place as usize, libc::O_CLOEXEC as usize])?;
            system(libc::SYS_close, [end as usize, 0, 0])?;
        }
        self.info_reader.store(info_reader, Ordering::Relaxed);
        self.block_writer.store(block_writer, Ordering::Relaxed);
        Ok(())
    }

    /// Starts the helper. Called last between fork and exec. If it can't be started, bubblewrap continues at
    /// once.
    pub(super) fn start(&self) {
        let own = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        let flags = libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: this helper alone uses the stack. This process frees nothing before it becomes bubblewrap,
        // and the memory then lives until the helper has exited. `help` uses no thread-local state.
        unsafe { libc::clone(help, self.top(1), flags, own) };
    }

    /// The end of the first or the second half of the stack, aligned to 16 bytes as the ABI requires.
    fn top(&self, half: usize) -> *mut c_void {
        let end = self.stack.as_ptr().expose_provenance() + half * STACK;
        std::ptr::with_exposed_provenance_mut(end & !15)
    }
}

/// Makes a system call with plain numbers and addresses of values that outlive the call.
fn system(number: c_long, [one, two, three]: [usize; 3]) -> io::Result<usize> {
    // SAFETY: the callers pass only such arguments.
    match unsafe { libc::syscall(number, one, two, three) } {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer as usize),
    }
}

/// Returns the read end and the write end.
fn pipe() -> io::Result<(RawFd, RawFd)> {
    let mut ends = [0; 2];
    system(libc::SYS_pipe2, [ends.as_mut_ptr().expose_provenance(), libc::O_CLOEXEC as usize, 0])?;
    Ok((ends[0], ends[1]))
}

/// Entry point of the helper. Whatever fails, bubblewrap continues when the helper exits.
extern "C" fn help(own: *mut c_void) -> c_int {
    // SAFETY: `start` passes this pointer, and this process keeps its memory.
    let own = unsafe { &*own.cast::<Helper>() };
    let _result = own.set_id();
    0
}

impl Helper {
    fn set_id(&self) -> io::Result<()> {
        // Die with bubblewrap, in case it never writes anything.
        system(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0])?;
        let (info_reader, block_writer) = (
            self.info_reader.load(Ordering::Relaxed) as usize,
            self.block_writer.load(Ordering::Relaxed) as usize,
        );
        // Close all other descriptors: their peers wait until they are closed.
        let (low, high) = (info_reader.min(block_writer), info_reader.max(block_writer));
        for [first, end] in [[0, low], [low + 1, high], [high + 1, u32::MAX as usize]] {
            if first < end {
                system(libc::SYS_close_range, [first, end - 1, 0])?;
            }
        }
        let mut text = [0u8; 512];
        let child = read_child(info_reader, &mut text)?;
        enter(child)?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let own = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        for used in 0..=self.id % MAX_SKIPPED_IDS {
            // SAFETY: as in `start`; `CLONE_VFORK` and `wait4` wait for the child's exit.
            let child = unsafe { libc::clone(set_last_id, self.top(2), flags, own) };
            let mut status = 0i32;
            let place = std::ptr::from_mut(&mut status).expose_provenance();
            system(libc::SYS_wait4, [child as usize, place, 0])?;
            // If the first child fails, none can set the last ID: then each child skips one ID.
            if used == 0 && status == 0 {
                break;
            }
        }
        system(libc::SYS_write, [block_writer, c"x".as_ptr().expose_provenance(), 1])?;
        Ok(())
    }
}

/// Entry point of a process in the namespace: sets the namespace's last ID.
extern "C" fn set_last_id(own: *mut c_void) -> c_int {
    // SAFETY: `set_id` passes this pointer and waits for the exit.
    let own = unsafe { &*own.cast::<Helper>() };
    let mut digits = [0u8; 10];
    let length = write_number(own.id - 1, &mut digits);
    let here = libc::AT_FDCWD as usize;
    let written =
        system(libc::SYS_openat, [here, LAST_ID.as_ptr().expose_provenance(), libc::O_WRONLY as usize])
            .and_then(|file| system(libc::SYS_write, [file, digits.as_ptr().expose_provenance(), length]));
    c_int::from(written.is_err())
}

/// Reads the process ID of bubblewrap's child, which bubblewrap writes as JSON.
fn read_child(from: usize, text: &mut [u8; 512]) -> io::Result<u32> {
    let mut length = 0;
    loop {
        let rest = &mut text[length..];
        let room = [from, rest.as_mut_ptr().expose_provenance(), rest.len()];
        let received = system(libc::SYS_read, room)?;
        length += received;
        let text = &text[..length];
        if received == 0 || length == 512 || text.contains(&b'}') {
            return child_of(text).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL));
        }
    }
}

fn child_of(text: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"child-pid\":";
    let at = text.windows(NAME.len()).position(|window| window == NAME)?;
    let digits = text[at + NAME.len()..].iter().skip_while(|byte| **byte == b' ');
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    let number =
        digits.fold(0u32, |number, byte| number.wrapping_mul(10).wrapping_add(u32::from(byte - b'0')));
    (number > 0).then_some(number)
}

/// Writes the decimal digits of `number` and returns their count.
fn write_number(number: u32, to: &mut [u8]) -> usize {
    let (mut length, mut power) = (0, 1u32);
    while power <= number / 10 {
        power *= 10;
    }
    while power > 0 {
        to[length] = b'0' + (number / power % 10) as u8;
        length += 1;
        power /= 10;
    }
    length
}

/// Enters the PID namespace of `process` for all processes that this one starts from now on.
fn enter(process: u32) -> io::Result<()> {
    const BEFORE: &[u8] = b"/proc/";
    const AFTER: &[u8] = b"/ns/pid\0";
    let mut path = [0u8; 32];
    path[..BEFORE.len()].copy_from_slice(BEFORE);
    let end = BEFORE.len() + write_number(process, &mut path[BEFORE.len()..]);
    path[end..end + AFTER.len()].copy_from_slice(AFTER);
    let here = libc::AT_FDCWD as usize;
    let path = path.as_ptr().expose_provenance();
    let ids = system(libc::SYS_openat, [here, path, libc::O_RDONLY as usize])?;
    let owner = system(libc::SYS_ioctl, [ids, NS_GET_USERNS as usize, 0])?;
    system(libc::SYS_setns, [owner, libc::CLONE_NEWUSER as usize, 0])?;
    system(libc::SYS_setns, [ids, libc::CLONE_NEWPID as usize, 0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_service_differ_and_fit_into_a_namespace() {
        let mut ids: Vec<u32> = (0..2000).map(|_| next_id()).collect();
        assert!(ids.iter().all(|id| (LOWEST..4_194_304).contains(id)));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 2000);
    }

    #[test]
    fn numbers_are_read_and_written() {
        let mut digits = [0; 10];
        for number in [1, 9, 10, 99, 100, 31_999, u32::MAX] {
            let length = write_number(number, &mut digits);
            assert_eq!(digits[..length], *number.to_string().as_bytes());
        }
        assert_eq!(child_of(b"{\n    \"child-pid\": 4711,\n    \"x\": 5\n}\n"), Some(4711));
        assert_eq!(child_of(b"{\n    \"child"), None);
    }
}
