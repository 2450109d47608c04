//! Acts that touch nothing but the process itself: each gives by plain `map` what it gives confined and in a
//! jail.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::{Act, act, at, call, outcome};

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts a signal from now on; the number of those that came before.
fn counted(signal: i32) -> u32 {
    let handler: extern "C" fn(i32) = count;
    // SAFETY: the handler adds to a number.
    unsafe { libc::signal(signal, handler as usize) };
    SIGNALS.load(Ordering::Relaxed)
}

/// Waits until another signal has come than those before.
fn came(before: u32) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    while SIGNALS.load(Ordering::Relaxed) == before {
        if Instant::now() > deadline {
            return "it never came".to_owned();
        }
        std::hint::spin_loop();
    }
    "it came".to_owned()
}

/// A set of one signal, as the kernel has it.
const fn set(signal: i32) -> u64 {
    1 << (signal - 1)
}

const SET: usize = size_of::<u64>();

/// Blocks a signal in this thread, or lets it through.
fn block(how: i32, signal: i32) {
    let mut blocked = set(signal);
    call(libc::SYS_rt_sigprocmask, &[how as usize, at(&mut blocked), 0, SET]).expect("a set");
}

/// Does something while a signal is blocked in this thread.
fn blocked(signal: i32, does: impl FnOnce() -> String) -> String {
    block(libc::SIG_BLOCK, signal);
    let said = does();
    block(libc::SIG_UNBLOCK, signal);
    said
}

fn raise(signal: i32) {
    // SAFETY: a signal to this thread, which is blocked or has a handler.
    unsafe { libc::raise(signal) };
}

/// Memory with a name that nothing else finds.
fn memory_file() -> io::Result<File> {
    // SAFETY: makes a descriptor, which is this one's own.
    match unsafe { libc::memfd_create(c"acts".as_ptr(), libc::MFD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as above.
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

fn on_memory(does: impl FnOnce(&mut File) -> io::Result<String>) -> String {
    memory_file().and_then(|mut file| does(&mut file)).unwrap_or_else(|error| format!("failed: {error}"))
}

fn number(fd: &impl AsRawFd) -> usize {
    fd.as_raw_fd() as usize
}

/// A page, shared or private.
fn page(flags: i32) -> usize {
    // SAFETY: new memory, of which the kernel chooses the place.
    let page = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), 4096, protection, flags | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    page.expose_provenance()
}

fn is_positive(result: Result<i64, i32>) -> String {
    match result {
        Ok(1..) => "positive".to_owned(),
        Ok(other) => format!("{other}"),
        Err(error) => super::failed(error),
    }
}

fn timer(clock: i32) -> i32 {
    let mut timer = 0i32;
    let mut event = [0u64; 8];
    // `sigev_signo` and `sigev_notify`: none.
    event[1] = u64::from(libc::SIGEV_NONE as u32) << 32;
    call(libc::SYS_timer_create, &[clock as usize, at(&mut event), at(&mut timer)]).expect("a timer");
    timer
}

pub(crate) const ACTS: &[Act] = &[
    act("setitimer", || {
        let before = counted(libc::SIGALRM);
        let mut soon = [0i64, 0, 0, 5_000];
        call(libc::SYS_setitimer, &[0, at(&mut soon), 0]).map_or_else(super::failed, |_| came(before))
    }),
    act("a timer of CPU time", || {
        let before = counted(libc::SIGPROF);
        let mut soon = [0i64, 0, 0, 5_000];
        call(libc::SYS_setitimer, &[2, at(&mut soon), 0]).map_or_else(super::failed, |_| came(before))
    }),
    act("getitimer", || outcome(call(libc::SYS_getitimer, &[0, at(&mut [0i64; 4])]))),
    #[cfg(target_arch = "x86_64")]
    act("alarm", || {
        counted(libc::SIGALRM);
        // SAFETY: sets a timer and takes it back.
        unsafe { format!("{} {}", libc::alarm(1000), libc::alarm(0)) }
    }),
    act("sigsuspend", || {
        let before = counted(libc::SIGUSR1);
        blocked(libc::SIGUSR1, || {
            raise(libc::SIGUSR1);
            let mut none = 0u64;
            match call(libc::SYS_rt_sigsuspend, &[at(&mut none), SET]) {
                Err(libc::EINTR) => came(before),
                other => format!("{other:?}"),
            }
        })
    }),
    act("sigpending", || {
        counted(libc::SIGUSR1);
        blocked(libc::SIGUSR1, || {
            raise(libc::SIGUSR1);
            let mut pending = 0u64;
            let told = call(libc::SYS_rt_sigpending, &[at(&mut pending), SET]);
            format!("{told:?} {}", pending & set(libc::SIGUSR1) != 0)
        })
    }),
    act("a signal with a value", || {
        let before = counted(libc::SIGUSR2);
        let mut info = [0i32; 32];
        info[2] = libc::SI_QUEUE;
        let own = std::process::id() as usize;
        let sent = call(libc::SYS_rt_sigqueueinfo, &[own, libc::SIGUSR2 as usize, at(&mut info)]);
        sent.map_or_else(super::failed, |_| came(before))
    }),
    act("a signal to a thread of its own by the old call", || {
        let before = counted(libc::SIGUSR2);
        let thread = std::thread::spawn(|| {
            // SAFETY: takes nothing.
            let own = unsafe { libc::gettid() } as usize;
            outcome(call(libc::SYS_tkill, &[own, libc::SIGUSR2 as usize]))
        });
        format!("{:?} {}", thread.join().ok(), came(before))
    }),
    act("signalfd", || {
        counted(libc::SIGUSR1);
        blocked(libc::SIGUSR1, || {
            let made = call(libc::SYS_signalfd4, &[usize::MAX, at(&mut set(libc::SIGUSR1)), SET, 0]);
            made.map_or_else(super::failed, |fd| {
                // SAFETY: the kernel has just made it for this process.
                let mut file = unsafe { File::from_raw_fd(fd as i32) };
                raise(libc::SIGUSR1);
                let mut told = [0u8; 128];
                format!("{:?} {}", file.read(&mut told).ok(), told[0])
            })
        })
    }),
    act("timer_gettime and timer_getoverrun", || {
        let timer = timer(libc::CLOCK_MONOTONIC) as usize;
        let rest = call(libc::SYS_timer_gettime, &[timer, at(&mut [0i64; 4])]);
        let over = call(libc::SYS_timer_getoverrun, &[timer]);
        let gone = call(libc::SYS_timer_delete, &[timer]);
        format!("{rest:?} {over:?} {gone:?}")
    }),
    act("timerfd_gettime", || {
        let made = call(libc::SYS_timerfd_create, &[libc::CLOCK_MONOTONIC as usize, 0]);
        let rest = made.and_then(|fd| {
            let rest = call(libc::SYS_timerfd_gettime, &[fd as usize, at(&mut [0i64; 4])]);
            call(libc::SYS_close, &[fd as usize])?;
            rest
        });
        outcome(rest)
    }),
    act("msync", || {
        let told = [libc::MAP_SHARED, libc::MAP_PRIVATE]
            .map(|flags| outcome(call(libc::SYS_msync, &[page(flags), 4096, libc::MS_SYNC as usize])));
        told.join(" ")
    }),
    act("mlock, mlock2, munlock", || {
        let page = page(libc::MAP_PRIVATE);
        let calls = [libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock];
        calls.map(|number| outcome(call(number, &[page, 4096, 0]))).join(" ")
    }),
    act("advice on memory", || {
        outcome(call(libc::SYS_madvise, &[page(libc::MAP_PRIVATE), 4096, libc::MADV_DONTNEED as usize]))
    }),
    act("keys of memory", || outcome(call(libc::SYS_pkey_alloc, &[0, 0]))),
    act("a memory file that is written to", || {
        on_memory(|file| {
            file.write_all(&[7; 100_000])?;
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(format!("{} bytes of {}", bytes.len(), bytes[99_999]))
        })
    }),
    act("a memory file that is given a length", || {
        on_memory(|file| {
            file.set_len(10 << 30)?;
            Ok(format!("{}", file.metadata()?.len()))
        })
    }),
    act("fallocate", || {
        on_memory(|file| Ok(outcome(call(libc::SYS_fallocate, &[number(file), 0, 0, 8192]))))
    }),
    act("pwrite and pread", || {
        on_memory(|file| {
            std::os::unix::fs::FileExt::write_all_at(file, b"there", 10)?;
            let mut bytes = [0; 5];
            std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 10)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }),
    act("pwritev and preadv", || {
        on_memory(|file| {
            let mut bytes = *b"vectors";
            let mut vector = [at(&mut bytes), bytes.len()];
            let written = call(libc::SYS_pwritev, &[number(file), at(&mut vector), 1, 0, 0]);
            let read = call(libc::SYS_preadv, &[number(file), at(&mut vector), 1, 0, 0]);
            Ok(format!("{written:?} {read:?}"))
        })
    }),
    act("copying by the standard library", || {
        on_memory(|from| {
            from.write_all(&[3; 5000])?;
            from.rewind()?;
            let mut to = memory_file()?;
            io::copy(from, &mut to).map(|bytes| format!("{bytes} bytes"))
        })
    }),
    act("writing through", || {
        on_memory(|file| file.sync_all().and_then(|()| file.sync_data()).map(|()| "done".to_owned()))
    }),
    act("advice on a file", || {
        on_memory(|file| Ok(outcome(call(libc::SYS_fadvise64, &[number(file), 0, 0, 4]))))
    }),
    act("a lock on a file", || on_memory(|file| file.lock().map(|()| "done".to_owned()))),
    act("statfs", || {
        outcome(call(libc::SYS_statfs, &[c"/".as_ptr().expose_provenance(), at(&mut [0u64; 32])]))
    }),
    act("the working folder", || {
        std::env::set_current_dir("/").map_or_else(|error| error.to_string(), |()| "set".to_owned())
    }),
    act("umask", || {
        // SAFETY: changes a number of this process, and changes it back.
        unsafe {
            let before = libc::umask(0o27);
            format!("{:o}", libc::umask(before))
        }
    }),
    act("getpgid and getsid", || {
        // The jail's session begins outside of its namespace, and is there without a number.
        let group = call(libc::SYS_getpgid, &[0]).map_or_else(super::failed, |_| "told".to_owned());
        let session = call(libc::SYS_getsid, &[0]).map_or_else(super::failed, |_| "told".to_owned());
        format!("{group} {session}")
    }),
    #[cfg(target_arch = "x86_64")]
    act("getpgrp", || outcome(call(libc::SYS_getpgrp, &[]))),
    act("a session of its own", || match call(libc::SYS_setsid, &[]) {
        Ok(_) => "made".to_owned(),
        // It had one already.
        Err(libc::EPERM) if call(libc::SYS_getsid, &[0]) == Ok(i64::from(std::process::id())) => {
            "made".to_owned()
        }
        Err(error) => super::failed(error),
    }),
    act("getpriority and setpriority", || {
        let now = call(libc::SYS_getpriority, &[0, 0]);
        let nice = now.map_or(0, |now| 20 - now);
        format!("{now:?} {:?}", call(libc::SYS_setpriority, &[0, 0, nice as usize]))
    }),
    act("ioprio_set", || outcome(call(libc::SYS_ioprio_set, &[1, 0, (2 << 13) | 7]))),
    act("getresuid, getresgid and getgroups", || {
        let mut ids = [0u32; 3];
        let [a, b, c] = std::array::from_fn(|n| at(&mut ids) + 4 * n);
        let groups = call(libc::SYS_getgroups, &[0, 0]).map(|_| 0);
        [call(libc::SYS_getresuid, &[a, b, c]), call(libc::SYS_getresgid, &[a, b, c]), groups]
            .map(outcome)
            .join(" ")
    }),
    act("capget", || {
        let (mut head, mut rights) = ([0x2008_0522u32, 0], [0u32; 6]);
        outcome(call(libc::SYS_capget, &[at(&mut head), at(&mut rights)]))
    }),
    act("sched_get_priority_max and _min", || {
        let calls = [libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min];
        format!("{:?}", calls.map(|number| call(number, &[libc::SCHED_FIFO as usize])))
    }),
    act("attributes of a thread", || {
        // SAFETY: the C library makes the attributes, and writes to them alone.
        unsafe {
            let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
            libc::pthread_attr_init(&raw mut attributes);
            let parameters = std::mem::zeroed::<libc::sched_param>();
            format!("{}", libc::pthread_attr_setschedparam(&raw mut attributes, &raw const parameters))
        }
    }),
    act("the own affinity", || {
        let mut cores = [0u64; 16];
        let size = size_of_val(&cores);
        match call(libc::SYS_sched_getaffinity, &[0, size, at(&mut cores)]) {
            Ok(length) => outcome(call(libc::SYS_sched_setaffinity, &[0, length as usize, at(&mut cores)])),
            Err(error) => super::failed(error),
        }
    }),
    act("scheduling as a batch", || {
        let mut usual = [0i32; 1];
        let set = |policy: i32, usual: &mut [i32; 1]| {
            outcome(call(libc::SYS_sched_setscheduler, &[0, policy as usize, at(usual)]))
        };
        format!("{} {}", set(libc::SCHED_BATCH, &mut usual), set(libc::SCHED_OTHER, &mut usual))
    }),
    act("sched_rr_get_interval", || outcome(call(libc::SYS_sched_rr_get_interval, &[0, at(&mut [0i64; 2])]))),
    act("a pipe and how much is in it", || {
        io::pipe()
            .and_then(|(reader, mut writer)| {
                writer.write_all(b"four")?;
                let mut there = 0i32;
                let told = call(libc::SYS_ioctl, &[number(&reader), libc::FIONREAD as usize, at(&mut there)]);
                Ok(format!("{told:?} {there}"))
            })
            .unwrap_or_else(|error| error.to_string())
    }),
    act("epoll_pwait2", || {
        let polled = call(libc::SYS_epoll_create1, &[0]).and_then(|fd| {
            let ready =
                call(libc::SYS_epoll_pwait2, &[fd as usize, at(&mut [0u64; 2]), 1, at(&mut [0i64; 2]), 0]);
            call(libc::SYS_close, &[fd as usize])?;
            ready
        });
        format!("{polled:?}")
    }),
    #[cfg(target_arch = "x86_64")]
    act("epoll_create, eventfd and pipe by their old calls", || {
        let mut ends = [0i32; 2];
        let piped = call(libc::SYS_pipe, &[at(&mut ends)]);
        let made = [call(libc::SYS_epoll_create, &[1]), call(libc::SYS_eventfd, &[0])];
        for fd in made.iter().flatten().copied().chain(ends.map(i64::from)) {
            let _open = call(libc::SYS_close, &[fd as usize]);
        }
        let [one, two] = made.map(outcome);
        format!("{} {one} {two}", outcome(piped))
    }),
    act("waiting for several locks", || {
        // The lock has another value than the one that is waited for: the kernel says so at once.
        let mut lock = 1u32;
        let mut waiting = [0u64, at(&mut lock) as u64, 2];
        let begun = call(libc::SYS_futex_waitv, &[at(&mut waiting), 1, 0, 0, 0]);
        format!("{begun:?}")
    }),
    act("membarrier", || outcome(call(libc::SYS_membarrier, &[0, 0, 0]))),
    act("a pair of sockets", || {
        UnixStream::pair()
            .and_then(|(mut one, mut other)| {
                one.write_all(b"through")?;
                let mut bytes = [0; 7];
                other.read_exact(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            })
            .unwrap_or_else(|error| error.to_string())
    }),
    act("a time limit of reads, and the peer's name", || {
        UnixStream::pair()
            .and_then(|(mut one, _other)| {
                one.set_read_timeout(Some(Duration::from_millis(5)))?;
                let read = one.read(&mut [0]).map_err(|error| error.kind());
                Ok(format!("{read:?} {}", one.peer_addr()?.is_unnamed()))
            })
            .unwrap_or_else(|error| error.to_string())
    }),
    act("several messages at once", || {
        UnixStream::pair().map_or_else(
            |error| error.to_string(),
            |(one, other)| {
                let mut bytes = *b"message";
                let mut vector = [at(&mut bytes), bytes.len()];
                let mut messages = [[0usize; 8]; 2];
                for message in &mut messages {
                    (message[2], message[3]) = (at(&mut vector), 1);
                }
                let sent = call(libc::SYS_sendmmsg, &[number(&one), at(&mut messages), 2, 0]);
                let taken = call(libc::SYS_recvmmsg, &[number(&other), at(&mut messages), 1, 0, 0]);
                format!("{sent:?} {taken:?}")
            },
        )
    }),
    act("an async runtime", || format!("{}", super::runtime::compute((0, 0)))),
    act("the parent", || is_positive(call(libc::SYS_getppid, &[]))),
];
