//! The list of what must go on working: what the standard library and common crates do on behalf of a computation.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{abort, exit, id};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};
use std::{env, panic, ptr, thread};

use chrono::TimeZone;
use rayon::prelude::*;

use crate::Use;

const fn works(name: &'static str, says: &'static str, act: fn()) -> Use {
    Use { name, signal: None, says, act }
}

const fn crashes(name: &'static str, signal: i32, says: &'static str, act: fn()) -> Use {
    Use { name, signal: Some(signal), says, act }
}

/// Made before the confinement, as a worker's channel is.
static CHANNEL: OnceLock<(UnixStream, UnixStream)> = OnceLock::new();

pub(crate) fn prepare() {
    CHANNEL.get_or_init(|| UnixStream::pair().expect("a pair of sockets"));
}

fn channel_ends() -> (&'static UnixStream, &'static UnixStream) {
    let (one, other) = CHANNEL.get().expect("it was prepared");
    (one, other)
}

pub(crate) const USES: &[Use] = &[
    works("a backtrace has names and lines", "named ok, line ok", a_function_with_a_name),
    works("threads", "28", || {
        let sum: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..8u64).map(|n| scope.spawn(move || n)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        println!("{sum}");
    }),
    works("a named thread with a large stack", "deep", || {
        let thread = thread::Builder::new().name("deep".to_owned()).stack_size(64 << 20);
        let name = thread.spawn(|| thread::current().name().map(str::to_owned)).expect("a thread");
        println!("{}", name.join().expect("no panic").expect("a name"));
    }),
    works("rayon", "499999500000", || {
        println!("{}", (0..1_000_000u64).into_par_iter().map(black_box).sum::<u64>());
    }),
    works("locks, channels and deadlines", "in time", || {
        let (sender, receiver) = channel();
        assert!(receiver.recv_timeout(Duration::from_millis(2)).is_err());
        thread::spawn(move || sender.send(1));
        println!("{}", receiver.recv_timeout(Duration::from_secs(10)).map_or("late", |_| "in time"));
    }),
    works("time zones by name (the C library)", "", || {
        println!("{}", hour_in(c"Asia/Tokyo"));
    }),
    works("the time zone of this machine (chrono)", "2026", || {
        let time = chrono::Local.timestamp_opt(1_780_000_000, 0).single().expect("a time");
        println!("{time}");
    }),
    works("a time zone by TZ (chrono)", "2026", || {
        // SAFETY: no other thread looks at the environment.
        unsafe { env::set_var("TZ", "Europe/Berlin") };
        let time = chrono::Local.timestamp_opt(1_780_000_000, 0).single().expect("a time");
        println!("{time}");
    }),
    works("dlopen of a system library", "cos(0) = 1", || {
        // SAFETY: a library of the system, and the function that it is known for.
        unsafe {
            let library = libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW);
            assert!(!library.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
            let cos = libc::dlsym(library, c"cos".as_ptr());
            let cos: extern "C" fn(f64) -> f64 = std::mem::transmute(cos);
            println!("cos(0) = {}", cos(0.0));
        }
    }),
    works("a locale", "locale set", || {
        // SAFETY: no other thread looks at it.
        let set = unsafe { libc::setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr()) };
        println!("locale {}", if set.is_null() { "refused" } else { "set" });
    }),
    works("stdout and stderr", "written", || {
        eprintln!("to stderr");
        io::stdout().lock().write_all(b"written\n").expect("it is open");
    }),
    works("randomness", "random", || {
        let mut bytes = [0u8; 32];
        // SAFETY: as long as it says.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        assert!(got == 32 && bytes != [0; 32]);
        let map: HashMap<u32, u32> = (0..100).map(|n| (n, n)).collect();
        println!("random {}", map.len());
    }),
    works("large memory", "1073741824", || {
        let mut bytes = vec![0u8; 1 << 30];
        bytes.iter_mut().step_by(1 << 20).for_each(|byte| *byte = 1);
        println!("{}", black_box(&bytes).len());
    }),
    works("memory with other protections", "protected", || {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, which nobody else uses.
        unsafe {
            let page = libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC), 0);
            assert_eq!(libc::madvise(page, 4096, libc::MADV_DONTNEED), 0);
            assert_eq!(libc::munmap(page, 4096), 0);
        }
        println!("protected");
    }),
    works("shared memory without a name", "shared", || {
        let memory = shared_memory(b"shared");
        println!("{}", read_shared(&memory));
    }),
    works("shared memory that comes by the channel", "from afar", || {
        let (one, other) = channel_ends();
        send_descriptor(one, &shared_memory(b"from afar"));
        println!("{}", read_shared(&receive_descriptor(other)));
    }),
    works("sockets that were there", "over the channel", || {
        let (mut one, mut other) = channel_ends();
        one.write_all(b"over the channel").expect("it is open");
        let mut bytes = [0; 16];
        other.read_exact(&mut bytes).expect("it is open");
        println!("{}", String::from_utf8_lossy(&bytes));
    }),
    works("pipes, polling and timers", "polled", || {
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"x").expect("it is open");
        let mut waiting = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, as it says; and descriptors of its own.
        unsafe {
            assert_eq!(libc::poll(&raw mut waiting, 1, 1000), 1);
            for made in
                [libc::epoll_create1(0), libc::eventfd(0, 0), libc::timerfd_create(libc::CLOCK_MONOTONIC, 0)]
            {
                assert!(made >= 0);
            }
        }
        reader.read_exact(&mut [0]).expect("it is there");
        println!("polled");
    }),
    works("clocks", "clocks", || {
        let begun = Instant::now();
        thread::sleep(Duration::from_millis(2));
        assert!(begun.elapsed() >= Duration::from_millis(2));
        assert!(SystemTime::now() > SystemTime::UNIX_EPOCH);
        let mut time = MaybeUninit::<libc::timespec>::uninit();
        // SAFETY: the kernel writes there.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) }, 0);
        println!("clocks");
    }),
    works("the own path, arguments and folder", "keeps_working", || {
        let program = env::current_exe().expect("it has a path");
        println!("{} {} {}", program.display(), env::args().count(), env::current_dir().is_ok());
    }),
    works("how many cores there are", "some", || {
        println!("{}", thread::available_parallelism().map_or("none", |_| "some"));
    }),
    works("limits and usage may be read", "read", || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the kernel writes there.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
            assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        }
        println!("read");
    }),
    works("a panic is caught", "caught", || {
        let caught = panic::catch_unwind(|| panic!("as asked"));
        println!("{}", if caught.is_err() { "caught" } else { "lost" });
    }),
    works("a handler of its own", "handled", || {
        extern "C" fn handle(_: i32) {
            let text = b"handled\n";
            // SAFETY: `write` may be called in a signal.
            unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
        }
        let handler: extern "C" fn(i32) = handle;
        // SAFETY: the handler does what may be done in a signal; the signal goes to this process.
        unsafe {
            libc::signal(libc::SIGUSR1, handler as usize);
            assert_eq!(libc::kill(id() as i32, libc::SIGUSR1), 0);
        }
    }),
    crashes("abort", libc::SIGABRT, "", || abort()),
    crashes("abort in a thread", libc::SIGABRT, "", || {
        let _never = thread::spawn(|| abort()).join();
    }),
    crashes("raise", libc::SIGTERM, "", || raise(libc::SIGTERM)),
    crashes("kill of itself", libc::SIGKILL, "", || {
        // SAFETY: a signal to this process.
        let _never = unsafe { libc::kill(id() as i32, libc::SIGKILL) };
    }),
    crashes("a SIGSYS that no filter raised", libc::SIGSYS, "", || raise(libc::SIGSYS)),
    crashes("a segfault", libc::SIGSEGV, "", || {
        // SAFETY: none: the fault is what is wanted.
        unsafe { ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    }),
    crashes("an overflow of the stack", libc::SIGABRT, "has overflowed its stack", || {
        println!("{}", deep(0));
    }),
    crashes("no memory left", libc::SIGABRT, "memory allocation of", || {
        println!("{}", black_box(vec![1u8; isize::MAX as usize]).len());
    }),
    Use {
        name: "exit",
        signal: None,
        says: "leaving",
        act: || {
            println!("leaving");
            exit(0)
        },
    },
];

#[inline(never)]
fn a_function_with_a_name() {
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    let word = |there: bool| if there { "ok" } else { "missing" };
    let (named, line) = (trace.contains("a_function_with_a_name"), trace.contains("uses.rs:"));
    println!("named {}, line {}", word(named), word(line));
}

fn raise(signal: i32) {
    // SAFETY: raises a signal in this thread.
    let _never = unsafe { libc::raise(signal) };
}

#[allow(unconditional_recursion)]
fn deep(n: u64) -> u64 {
    black_box(deep(black_box(n + 1))) + 1
}

/// The hour there at midnight of UTC; 0 where the zone is not known.
fn hour_in(zone: &CStr) -> i32 {
    // SAFETY: no other thread looks at the environment; the C library writes the structure.
    unsafe {
        libc::setenv(c"TZ".as_ptr(), zone.as_ptr(), 1);
        let mut broken_down = std::mem::zeroed::<libc::tm>();
        libc::localtime_r(&0, &raw mut broken_down);
        broken_down.tm_hour
    }
}

fn shared_memory(bytes: &[u8]) -> OwnedFd {
    // SAFETY: the descriptor is new; the memory is as long as it was made.
    unsafe {
        let memory = libc::memfd_create(c"fastmap".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(memory >= 0);
        assert_eq!(libc::ftruncate(memory, 4096), 0);
        let page = libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            memory,
            0,
        );
        assert_ne!(page, libc::MAP_FAILED);
        ptr::copy_nonoverlapping(bytes.as_ptr(), page.cast(), bytes.len());
        assert_eq!(libc::fcntl(memory, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW), 0);
        OwnedFd::from_raw_fd(memory)
    }
}

fn read_shared(memory: &OwnedFd) -> String {
    // SAFETY: it is so long, and ends with a zero byte.
    unsafe {
        let page =
            libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, memory.as_raw_fd(), 0);
        assert_ne!(page, libc::MAP_FAILED);
        CStr::from_ptr(page.cast()).to_string_lossy().into_owned()
    }
}

/// Room for the header and one descriptor, aligned as the header is.
type Control = [u64; 4];

fn message(byte: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a message of zeroes is an empty one.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    (message.msg_iov, message.msg_iovlen) = (byte, 1);
    message.msg_control = control.as_mut_ptr().cast::<c_void>();
    message.msg_controllen = size_of::<libc::cmsghdr>() + 8;
    message
}

fn send_descriptor(channel: &UnixStream, descriptor: &OwnedFd) {
    let (mut text, mut control) = ([1u8], Control::default());
    let mut byte = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 1 };
    let message = message(&mut byte, &mut control);
    // SAFETY: the control bytes have room for one descriptor.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        ((*header).cmsg_level, (*header).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(descriptor.as_raw_fd());
        assert_eq!(libc::sendmsg(channel.as_raw_fd(), &raw const message, 0), 1);
    }
}

fn receive_descriptor(channel: &UnixStream) -> OwnedFd {
    let (mut text, mut control) = ([0u8], Control::default());
    let mut byte = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 1 };
    let mut message = message(&mut byte, &mut control);
    // SAFETY: the control bytes have room for one descriptor, which is this process's own then.
    unsafe {
        assert_eq!(libc::recvmsg(channel.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC), 1);
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null(), "a descriptor has come");
        OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    }
}
