//! Items to which something is refused, or that miss a file, and what becomes of them: one panics, one answers an
//! error of its own, one ends its worker, the others go on.

use std::io;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use super::{at, call};

/// A file of each machine that no sandbox shows.
const FILE: &str = "/etc/passwd";

/// A name, and what is done.
type Item = (&'static str, fn() -> Result<(), String>);

/// The items: their names, and what they do.
pub(crate) const ITEMS: &[Item] = &[
    ("goes on without a socket", || {
        let _refused = UdpSocket::bind("127.0.0.1:0");
        Ok(())
    }),
    ("goes on without a program", || {
        let _refused = Command::new("/bin/true").status();
        Ok(())
    }),
    ("panics without a file", || {
        fs::read(FILE).expect("a file");
        Ok(())
    }),
    ("answers an error without a new file", || {
        fs::write("/var/lib/fastmap-acts", "").map_err(|_| "no file".to_owned())
    }),
    ("ends without a socket", || {
        if UdpSocket::bind("127.0.0.1:0").is_err() {
            std::process::abort();
        }
        Ok(())
    }),
    // A filter's signal that is blocked, or has no handler, would end the worker.
    ("goes on in a thread that has all signals blocked", || {
        let refused = thread::spawn(|| {
            block_all();
            (fs::read(FILE).is_err(), UdpSocket::bind("127.0.0.1:0").is_err())
        });
        if refused.join().is_ok_and(|both| both == (true, true)) { Ok(()) } else { Err("?".to_owned()) }
    }),
    ("goes on where all signals have the usual effect", || {
        let mut action = [0u64; 4];
        for signal in 1..=libc::SIGRTMAX() as usize {
            let _usual = call(libc::SYS_rt_sigaction, &[signal, at(&mut action), 0, 8]);
        }
        if UdpSocket::bind("127.0.0.1:0").is_err() { Ok(()) } else { Err("?".to_owned()) }
    }),
    ("goes on in a handler that blocks all signals", || {
        extern "C" fn handler(_: i32) {
            let _refused = fs::metadata(FILE).and_then(|_| fs::read(FILE));
        }
        let entry: extern "C" fn(i32) = handler;
        let mut action = [entry as usize as u64, libc::SA_NODEFER as u64, 0, u64::MAX];
        // SAFETY: the C library fills in where a handler returns to; a handler that only looks at files, and
        // a signal to this thread.
        unsafe {
            let mut whole: libc::sigaction = std::mem::zeroed();
            whole.sa_sigaction = action[0] as usize;
            libc::sigfillset(&raw mut whole.sa_mask);
            libc::sigaction(libc::SIGUSR1, &raw const whole, std::ptr::null_mut());
            libc::raise(libc::SIGUSR1);
        }
        call(libc::SYS_rt_sigaction, &[libc::SIGUSR1 as usize, 0, at(&mut action), 8]).map_err(|_| "?")?;
        // Another one than the filters' own, which the kernel does not block.
        if action[3] & 1 << (libc::SIGUSR2 - 1) != 0 { Ok(()) } else { Err(format!("{:x}", action[3])) }
    }),
];

fn block_all() {
    // SAFETY: a set of this thread's own, filled before it is used.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// Looks for a file and for one that no machine has, goes on, and takes its time.
pub(crate) fn look_for(path: String) -> bool {
    let _socket = UdpSocket::bind("127.0.0.1:0");
    let _nowhere = fs::read(format!("{path}-absent"));
    let found = fs::metadata(path).is_ok();
    thread::sleep(Duration::from_secs(5));
    found
}

/// Starts that many threads at once.
///
/// # Panics
/// If one can't be started.
pub(crate) fn start_threads(many: usize) -> usize {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let start = |_| {
        let wait = std::sync::Arc::clone(&wait);
        thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let _ended = wait.lock().map(|wait| wait.recv());
        })
    };
    let started: Vec<io::Result<_>> = (0..many).map(start).collect();
    drop(stop);
    let all: io::Result<Vec<_>> = started.into_iter().collect();
    all.expect("threads").into_iter().filter_map(|thread| thread.join().ok()).count()
}
