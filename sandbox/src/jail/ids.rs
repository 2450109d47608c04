//! Process ids and host names that differ from worker to worker. Each jail has a namespace of process ids, in
//! which bubblewrap is 1 and the worker would be 2 everywhere: what seeds itself by time and process id, as C
//! programs do, would draw the same numbers in all workers that start in the same second.
//!
//! A process id is the namespace's last one and one more. bubblewrap does not set the last one, so a helper
//! does, which lives beside bubblewrap for some hundred microseconds: bubblewrap writes down its child
//! (`--info-fd`) and waits before it starts the worker (`--block-fd`); the helper enters the namespace, sets
//! the last id, and lets bubblewrap go on. That takes no rights, for a namespace belongs to the user who made
//! it. Where it fails the worker has a small id.
//!
//! The helper is a process of its own in the memory of bubblewrap's child-to-be, which is left behind when
//! that becomes bubblewrap. It runs between fork and exec of a process of many threads: it allocates nothing,
//! takes no lock, and makes system calls only.

use std::ffi::{CStr, c_int, c_long, c_void};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Lower ids look like those of a machine's own services.
const LOWEST: u32 = 1000;
/// What every kernel has for most.
const USUAL_MOST: u32 = 32_768;
/// Between the ids of one service's workers. Neighbours and neighbouring seconds would give the same `time ^
/// pid`.
const STEP: u32 = 7919;
/// Bytes of the helper's stack, and of its child's.
const STACK: usize = 16 << 10;
/// Ids that are used up where the last one can't be set, at most.
const USED_UP: u32 = 61;
/// The request of `ioctl` for the user namespace that a namespace belongs to.
const NS_GET_USERNS: c_long = 0xb701;
const LAST_ID: &CStr = c"/proc/sys/kernel/ns_last_pid";

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A host name that no other worker has, on this machine or on another.
pub(super) fn hostname() -> String {
    format!("fastmap-{:08x}", random() as u32)
}

/// A process id that no other worker of this service has, as long as there are others.
fn next_id() -> u32 {
    static FIRST: OnceLock<(u32, u32)> = OnceLock::new();
    static WORKERS: AtomicU32 = AtomicU32::new(0);
    let (first, span) = *FIRST.get_or_init(|| {
        let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
        let most = most.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_MOST);
        // Room for the worker's threads.
        let span = most.saturating_sub(2 * LOWEST).max(1);
        (random() as u32 % span, span)
    });
    let worker = u64::from(WORKERS.fetch_add(1, Ordering::Relaxed));
    LOWEST + ((u64::from(first) + worker * u64::from(STEP)) % u64::from(span)) as u32
}

/// What gives one worker its process id. It must stay where it is until bubblewrap is started.
#[derive(Debug)]
pub(super) struct Helper {
    /// Descriptors of which bubblewrap knows the numbers. Between fork and exec pipes take their places, so
    /// that no end of them is ever open in the service: the wait of either side ends when the other is dead.
    info: OwnedFd,
    block: OwnedFd,
    id: u32,
    stack: Vec<u8>,
    /// The helper's own ends.
    told: AtomicI32,
    go: AtomicI32,
}

impl Helper {
    /// `places` are two descriptors of any kind, of this one alone.
    pub(super) fn new(places: [OwnedFd; 2]) -> Helper {
        let [info, block] = places;
        let (told, go) = (AtomicI32::new(-1), AtomicI32::new(-1));
        Helper { info, block, id: next_id(), stack: vec![0; 2 * STACK], told, go }
    }

    /// Descriptors that bubblewrap must inherit.
    pub(super) fn inherited(&self) -> [RawFd; 2] {
        [self.info.as_raw_fd(), self.block.as_raw_fd()]
    }

    /// bubblewrap's options.
    pub(super) fn options(&self) -> [String; 4] {
        let [info, block] = self.inherited().map(|fd| fd.to_string());
        ["--info-fd".to_owned(), info, "--block-fd".to_owned(), block]
    }

    /// Between fork and exec, while descriptors are not limited yet: makes the pipes.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let (told, info) = pipe()?;
        let (block, go) = pipe()?;
        for (end, place) in [info, block].into_iter().zip(self.inherited()) {
            system(libc::SYS_dup3, [end as usize, place as usize, libc::O_CLOEXEC as usize])?;
            system(libc::SYS_close, [end as usize, 0, 0])?;
        }
        self.told.store(told, Ordering::Relaxed);
        self.go.store(go, Ordering::Relaxed);
        Ok(())
    }

    /// Between fork and exec, as the last thing: starts the helper. Without one bubblewrap goes on at once.
    pub(super) fn start(&self) {
        let own = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        let flags = libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: the stack is this helper's own, and nothing is freed in this process before it becomes
        // bubblewrap; the memory then stays until the helper has ended. `help` does nothing that needs a
        // thread's own state.
        unsafe { libc::clone(help, self.top(1), flags, own) };
    }

    /// The end of the first or the second half of the stack, aligned as machines want it.
    fn top(&self, half: usize) -> *mut c_void {
        let end = self.stack.as_ptr().expose_provenance() + half * STACK;
        std::ptr::with_exposed_provenance_mut(end & !15)
    }
}

/// A system call with plain numbers and addresses of values that live until it is over.
fn system(number: c_long, [one, two, three]: [usize; 3]) -> io::Result<usize> {
    // SAFETY: as said above.
    match unsafe { libc::syscall(number, one, two, three) } {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer as usize),
    }
}

/// The end to read from and the end to write to.
fn pipe() -> io::Result<(RawFd, RawFd)> {
    let mut ends = [0; 2];
    system(libc::SYS_pipe2, [ends.as_mut_ptr().expose_provenance(), libc::O_CLOEXEC as usize, 0])?;
    Ok((ends[0], ends[1]))
}

/// The helper: whatever fails, bubblewrap goes on when it ends.
extern "C" fn help(own: *mut c_void) -> c_int {
    // SAFETY: `start` passes it on, and its memory is left to this process.
    let own = unsafe { &*own.cast::<Helper>() };
    let _done = own.set_id();
    0
}

impl Helper {
    fn set_id(&self) -> io::Result<()> {
        // With bubblewrap, should that never write anything.
        system(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0])?;
        let (told, go) =
            (self.told.load(Ordering::Relaxed) as usize, self.go.load(Ordering::Relaxed) as usize);
        // All others: what they lead to waits for their end.
        let (low, high) = (told.min(go), told.max(go));
        for [first, end] in [[0, low], [low + 1, high], [high + 1, u32::MAX as usize]] {
            if first < end {
                system(libc::SYS_close_range, [first, end - 1, 0])?;
            }
        }
        let mut text = [0u8; 512];
        let child = read_child(told, &mut text)?;
        enter(child)?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let own = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        for used in 0..=self.id % USED_UP {
            // SAFETY: as in `start`; this one waits until the child is dead.
            let child = unsafe { libc::clone(set_last_id, self.top(2), flags, own) };
            let mut status = 0i32;
            let place = std::ptr::from_mut(&mut status).expose_provenance();
            system(libc::SYS_wait4, [child as usize, place, 0])?;
            // The first has set it, or none can: then each uses an id up.
            if used == 0 && status == 0 {
                break;
            }
        }
        system(libc::SYS_write, [go, c"x".as_ptr().expose_provenance(), 1])?;
        Ok(())
    }
}

/// A process of the namespace: sets its last id.
extern "C" fn set_last_id(own: *mut c_void) -> c_int {
    // SAFETY: `set_id` passes it on and waits for the end.
    let own = unsafe { &*own.cast::<Helper>() };
    let mut digits = [0u8; 10];
    let length = write_number(own.id - 1, &mut digits);
    let here = libc::AT_FDCWD as usize;
    let written =
        system(libc::SYS_openat, [here, LAST_ID.as_ptr().expose_provenance(), libc::O_WRONLY as usize])
            .and_then(|file| system(libc::SYS_write, [file, digits.as_ptr().expose_provenance(), length]));
    c_int::from(written.is_err())
}

/// The process id of bubblewrap's child, which it writes as JSON.
fn read_child(from: usize, text: &mut [u8; 512]) -> io::Result<u32> {
    let mut length = 0;
    loop {
        let rest = &mut text[length..];
        let room = [from, rest.as_mut_ptr().expose_provenance(), rest.len()];
        let came = system(libc::SYS_read, room)?;
        length += came;
        let text = &text[..length];
        if came == 0 || length == 512 || text.contains(&b'}') {
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

/// Writes the digits of a number; how many.
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

/// Lets the processes that this one starts from now on be of the namespace of that process.
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
