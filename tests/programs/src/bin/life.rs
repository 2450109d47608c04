//! A program that maps twelve items, by plain `map` or by fastmap, and lives and ends as the variable `LIFE`
//! says. `lives` starts it. It depends on fastmap and libc alone, so that `lives` can also build it with
//! `panic = "abort"`, with coverage, and as a library.
//!
//! `LIFE` is a deed of `main`, and what items do: `nap=MS` each, `slower=N` times that, `hold=N` (for ever,
//! from item N on), `panic=N` (item N), `print=BYTES` more each, `by=c` (lines by C's `printf`), `map=plain`.
//! Answers go to the file that `LIFE_ANSWERS` names.

use std::fs::{File, read_to_string};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, abort, exit, id};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use fastmap::{Error, Options};

const ITEMS: u64 = 12;

/// How an item behaves: its number, its nap in milliseconds, bytes that it prints beside its line, and
/// whether by C.
type Item = (u64, u64, usize, bool);

const FOR_EVER: u64 = u64::MAX;
const PANICS: u64 = u64::MAX - 1;

fn item((number, nap, bytes, by_c): Item) -> u64 {
    if by_c {
        // SAFETY: the format asks for the one number that is there.
        unsafe { libc::printf(c"item %lu\n".as_ptr(), number) };
    } else {
        println!("item {number}");
    }
    for _ in 0..bytes / 100 {
        println!("{}", "x".repeat(99));
    }
    assert!(nap != PANICS, "item {number} panics");
    sleep(Duration::from_millis(nap));
    number * number
}

fn wish(name: &str) -> Option<String> {
    let wishes = std::env::var("LIFE").unwrap_or_default();
    wishes.split(' ').find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn number(name: &str) -> Option<u64> {
    wish(name)?.parse().ok()
}

fn items() -> impl Iterator<Item = Item> + Send + 'static {
    let (nap, hold, panics) =
        (number("nap").unwrap_or(20) * number("slower").unwrap_or(1), number("hold"), number("panic"));
    let bytes = number("print").unwrap_or(0) as usize;
    let by_c = wish("by").is_some();
    (0..ITEMS).map(move |n| {
        let held = hold.is_some_and(|first| n >= first);
        let nap = if panics == Some(n) {
            PANICS
        } else if held {
            FOR_EVER
        } else {
            nap
        };
        (n, nap, bytes, by_c)
    })
}

fn results() -> Result<Box<dyn Iterator<Item = Result<u64, Error>>>, Error> {
    if wish("map").is_some() {
        return Ok(Box::new(items().map(|n| Ok(item(n)))));
    }
    fastmap::global_init(Options::new())?;
    Ok(Box::new(fastmap::fastmap(item, items())))
}

static SIGNALLED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    SIGNALLED.store(true, Ordering::Relaxed);
}

/// What the program does before its map.
fn prepare(deed: &str) {
    match deed {
        "handle" => {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                // SAFETY: the handler stores to an atomic and does nothing else.
                unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
            }
        }
        "close" => {
            for fd in 0..3 {
                // SAFETY: std writes to these numbers alone, and takes it where they are closed.
                unsafe { libc::close(fd) };
            }
        }
        "nonblock" => {
            // SAFETY: changes a flag of stdout.
            unsafe { libc::fcntl(1, libc::F_SETFL, libc::O_WRONLY | libc::O_NONBLOCK) };
        }
        "daemon" => {
            for _ in 0..2 {
                // SAFETY: no other thread runs yet.
                if unsafe { libc::fork() } > 0 {
                    // SAFETY: ends the copy that is not needed.
                    unsafe { libc::_exit(0) };
                }
                // SAFETY: changes the session of this process.
                unsafe { libc::setsid() };
            }
        }
        _ => {}
    }
}

/// What the program does in the midst of its map.
fn midway(deed: &str) {
    match deed {
        "exec" => become_another(),
        "fork" => {
            // SAFETY: the copy ends at once, as a program that ends.
            let copy = unsafe { libc::fork() };
            if copy == 0 {
                exit(0);
            }
            // SAFETY: it is a child of this process, and its status is not asked for.
            unsafe { libc::waitpid(copy, std::ptr::null_mut(), 0) };
        }
        "unroot" => {
            // SAFETY: changes the user of this process; 65534 is nobody's number everywhere.
            let given_up = unsafe { libc::setgid(65534) == 0 && libc::setuid(65534) == 0 };
            assert!(given_up, "only root can give up root");
        }
        _ => {}
    }
}

fn become_another() -> ! {
    panic!("{}", Command::new("/proc/self/exe").env("LIFE", "another").exec())
}

/// The program that the host has become: ends by 7 once the host's workers have ended, by 8 if they don't.
fn another() -> ! {
    let alive = |pid: &str| {
        let stat = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    for _ in 0..500 {
        let children = read_to_string(format!("/proc/self/task/{}/children", id())).unwrap_or_default();
        if !children.split_whitespace().any(alive) {
            exit(7);
        }
        sleep(Duration::from_millis(10));
    }
    exit(8)
}

/// What the program does after its map.
fn end(deed: &str) {
    match deed {
        "exit" => exit(3),
        "abort" => abort(),
        "panic" => panic!("the program panics"),
        "handle" if SIGNALLED.load(Ordering::Relaxed) => exit(5),
        "exec-after" => become_another(),
        _ => {}
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let wishes = std::env::var("LIFE")?;
    let deed = wishes.split(' ').next().unwrap_or_default();
    if deed == "another" {
        another();
    }
    let mut answers = File::options().create(true).append(true).open(std::env::var("LIFE_ANSWERS")?)?;
    prepare(deed);
    writeln!(answers, "host {}", id())?;
    let mut broken = None;
    for (n, result) in (0..).zip(results()?) {
        match result {
            Ok(square) if square == n * n => writeln!(answers, "answer {n}")?,
            Ok(other) => writeln!(answers, "wrong {n}: {other}")?,
            // An item's own.
            Err(error) if error.index().is_some() => eprintln!("{error}"),
            Err(error) => broken = Some(error),
        }
        if n == 3 {
            midway(deed);
            if deed == "leave" {
                break;
            }
        }
    }
    writeln!(answers, "done")?;
    end(deed);
    broken.map_or(Ok(()), |error| Err(error.into()))
}

/// The program as a part of another one, which loads it as a library.
#[unsafe(no_mangle)]
extern "C" fn life() -> i32 {
    fastmap::enter();
    match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fastmap::fastmap_main!(run);
