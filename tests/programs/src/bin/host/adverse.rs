//! Maps where something around them is amiss: the system gives too little, the host holds a lock or has a logger that
//! panics, state can't be freed, idle workers are killed, maps are left at a bad moment.

use std::cell::Cell;
use std::fs::{File, OpenOptions, create_dir, read_dir};
use std::io::{Read, Write, stdin, stdout};
use std::iter::once;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{abort, id};
use std::thread::{sleep, spawn};
use std::time::Duration;

use fastmap::FastmapConfig;
use fastmap_test_programs::{LIMIT, peak_kb, refuse, report, until, workers};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, dup2_stdout, setgid, setuid};

use crate::{Outcome, config};

/// Leaves a file in a folder: what workers tell each other and the host.
fn leave(folder: &Path, name: &impl ToString) {
    File::create(folder.join(name.to_string())).expect("a file can be made");
}

/// How many files were left in a folder.
fn left(folder: &Path) -> usize {
    read_dir(folder).map_or(0, Iterator::count)
}

fn for_ever() -> ! {
    loop {
        sleep(Duration::from_secs(1000));
    }
}

/// Returns when so many workers are there, each of which has left a file in the folder.
fn gather(config: &FastmapConfig, folder: PathBuf, workers: usize) -> Outcome {
    create_dir(&folder)?;
    let meet = |(folder, workers): &(PathBuf, usize), _: usize| {
        leave(folder, &id());
        until("all workers are there", LIMIT, || left(folder) == *workers);
    };
    config.fastmap_with((folder, workers), meet, 0..workers).collect::<Result<(), _>>()?;
    Ok(())
}

/// Nothing can be prepared, and the input is slow and has no end.
pub(crate) fn init_panics() -> Outcome {
    let pulled = Cell::new(0);
    let input = (0..).inspect(|n| {
        sleep(Duration::from_millis(2));
        pulled.set(n + 1);
        assert!(*n < 10_000, "the map reads on and on");
    });
    let init = || -> u8 { panic!("no licence found") };
    report(config()?.fastmap_init(init, |_: &mut u8, n: u64| n, input), |n| n);
    println!("pulled {}", pulled.get());
    Ok(())
}

fn prints_or_crashes(n: u64) -> u64 {
    match n {
        20 => println!("printed by a worker"),
        200 => abort(),
        _ => {}
    }
    n
}

/// The host holds its stdout while a worker prints and another one crashes, and until all is dropped.
pub(crate) fn stdout_held(items: u64) -> Outcome {
    let held = stdout().lock();
    let config = config()?;
    report(config.fastmap(prints_or_crashes, 0..items), |n| n);
    drop(config);
    drop(held);
    println!("all dropped");
    Ok(())
}

/// The host's stdout is a pipe that is full and that nobody reads while a worker prints and another one crashes. It is
/// read when all is answered.
pub(crate) fn stdout_full(items: u64) -> Outcome {
    let (mut reader, mut full) = std::io::pipe()?;
    fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while full.write(&[b'\n'; 4096]).is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty()))?;
    let shown = stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(&full)?;
    drop(full);

    let config = config()?;
    let answers: Vec<_> = config.fastmap(prints_or_crashes, 0..items).collect();

    let read = spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text.matches("printed by a worker").count())
    });
    drop(config);
    dup2_stdout(shown)?;
    report(answers, |n| n);
    println!("read {}", read.join().expect("no panic")?);
    Ok(())
}

/// The host's stdout is a pipe that is read only when items that print much would long be late.
pub(crate) fn stdout_unread(items: u64) -> Outcome {
    const LINES: usize = 10_000;
    let (mut reader, unread) = std::io::pipe()?;
    let shown = stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(&unread)?;
    drop(unread);
    let limit = Duration::from_secs(1);
    let read = spawn(move || {
        sleep(limit * 5 / 2);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).map(|bytes| bytes / 100 / LINES)
    });
    let function = |n: u64| {
        for _ in 0..LINES {
            println!("{}", "x".repeat(99));
        }
        n
    };
    let config = config()?;
    let answers: Vec<_> = config.fastmap(function, 0..items).item_timeout(limit).collect();
    drop(config);
    dup2_stdout(shown)?;
    report(answers, |n| n);
    println!("read {}", read.join().expect("no panic")?);
    Ok(())
}

/// The host gives up root while its workers go on as root. One of them then runs an item without an end.
pub(crate) fn gives_up_root(folder: &str) -> Outcome {
    let config = config()?;
    gather(&config, Path::new(folder).join("workers"), 2)?;
    println!("before {:?}", workers(id().cast_signed()));
    setgid(Gid::from_raw(65_534))?;
    setuid(Uid::from_raw(65_534))?;
    let function = |n: u64| if n == 3 { for_ever() } else { n };
    report(config.fastmap(function, 0..20).item_timeout(Duration::from_millis(500)), |n| n);
    // An item that runs is ended with the configuration as well.
    let answer = config.fastmap(function, 2..10).next();
    println!("first {answer:?}");
    drop(config);
    println!("left {:?}", workers(id().cast_signed()).len());
    Ok(())
}

struct Touchy;

impl log::Log for Touchy {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert_ne!(record.target(), "function", "this logger can't write that");
    }

    fn flush(&self) {}
}

/// The host's logger panics at what the function logs.
pub(crate) fn logger_panics(items: u64) -> Outcome {
    log::set_boxed_logger(Box::new(Touchy)).map(|()| log::set_max_level(log::LevelFilter::Info))?;
    let speak = |n: u64| {
        if n.is_multiple_of(10) {
            log::info!(target: "function", "{n}");
        }
        n
    };
    report(config()?.fastmap(speak, 0..items), |n| n);
    Ok(())
}

/// A map, where even its configuration may not come to be.
pub(crate) fn report_all(items: u64) {
    println!("begun");
    let function = |n: u64| {
        sleep(Duration::from_millis(1));
        n
    };
    match config() {
        Ok(config) => report(config.fastmap(function, 0..items), |n| n),
        Err(error) => report(once(Err(error)), |n| n),
    }
}

/// The host may have so many descriptors.
pub(crate) fn few_descriptors(descriptors: u64, items: u64) -> Outcome {
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    report_all(items);
    Ok(())
}

/// The kernel refuses `pidfd_open`, as it does in some sandboxes. One item ends its worker.
pub(crate) fn no_pidfd() -> Outcome {
    refuse(libc::SYS_pidfd_open, libc::EPERM)?;
    let ends = |n: u64| if n == 20 { std::process::abort() } else { n };
    report(config()?.fastmap(ends, 0..40), |n| n);
    Ok(())
}

/// The kernel makes no folder any more, for a reason that nothing tells before (a quota, Landlock).
pub(crate) fn no_folders(maps: u64) -> Outcome {
    refuse(libc::SYS_mkdirat, libc::EDQUOT)?;
    #[cfg(target_arch = "x86_64")]
    refuse(libc::SYS_mkdir, libc::EDQUOT)?;
    let config = config()?;
    // The first attempts are made before it is known.
    report(config.fastmap(|n: u64| n, 0..40), |n| n);
    let descriptors = || left(Path::new("/proc/self/fd"));
    let mut before = usize::MAX;
    for _ in 1..maps {
        report(config.fastmap(|n: u64| n, 0..40), |n| n);
        // A thread that has failed may be closing one.
        until("no more descriptors than before", LIMIT, || descriptors() <= before);
        before = descriptors();
        println!("descriptors {before}");
    }
    Ok(())
}

/// A map is left while its only worker prepares, for ever.
pub(crate) fn left_in_init() -> Outcome {
    let config = config()?;
    // The second item comes when the test says that the worker has begun with the first, and leaves the map.
    let input = (0..2).inspect(|n| {
        if *n == 1 {
            stdin().read_line(&mut String::new()).expect("stdin can be read");
            panic!("no second item");
        }
    });
    let init = || -> u8 {
        println!("in init");
        for_ever()
    };
    let mut map = config.fastmap_init(init, |_: &mut u8, n: u64| n, input);
    let first = catch_unwind(AssertUnwindSafe(|| map.next().is_some()));
    println!("left {}", first.is_err());
    drop(map);
    report(config.fastmap(|n: u64| n, 0..100), |n| n);
    Ok(())
}

/// Can't be freed: its drop blocks, or it panics.
struct Clinging<const BLOCKS: bool>;

impl<const BLOCKS: bool> Drop for Clinging<BLOCKS> {
    fn drop(&mut self) {
        if BLOCKS {
            for_ever();
        }
        panic!("this can't be freed");
    }
}

/// Maps follow one whose state is never freed.
pub(crate) fn clinging_state<const BLOCKS: bool>(maps: u64) -> Outcome {
    let config = config()?;
    for _ in 0..maps {
        let init = || Clinging::<BLOCKS>;
        report(config.fastmap_init(init, |_: &mut Clinging<BLOCKS>, n: u64| n, 0..20), |n| n);
        report(config.fastmap(|n: u64| n, 0..100), |n| n);
    }
    Ok(())
}

/// All workers are killed while there is nothing for them to do.
pub(crate) fn idle_killed(folder: &str, rounds: u64) -> Outcome {
    let config = config()?;
    let me = id().cast_signed();
    for round in 0..rounds {
        gather(&config, Path::new(folder).join(round.to_string()), 6)?;
        for pid in workers(me) {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        // In some rounds the next map begins before their deaths are noticed.
        if round.is_multiple_of(2) {
            until("all workers are dead", LIMIT, || workers(me).is_empty());
        }
        report(config.fastmap(|n: u64| n, 0..60), |n| n);
    }
    Ok(())
}

/// Adds a byte to the file that the variable `DEATHS` names.
fn note_death() {
    let path = std::env::var_os("DEATHS").expect("the test sets it");
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(b"x")).expect("the file can be written");
}

fn deaths() -> u64 {
    let path = std::env::var_os("DEATHS").expect("the test sets it");
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// At item 300 the worker dies, and no other can live from then on; answers from before have come by then.
pub(crate) fn no_more_workers() -> Outcome {
    let init = || {
        if deaths() > 0 {
            note_death();
            abort();
        }
    };
    let function = |(): &mut (), (n, _): (u64, String)| {
        if n == 300 {
            note_death();
            abort();
        }
        n
    };
    let pulled = Cell::new(0);
    // Of such a size that a batch holds 32 of them at most.
    let input = (0..1000).map(|n: u64| (n, "x".repeat(4096))).inspect(|(n, _)| pulled.set(*n));
    let map = config()?.fastmap_init(init, function, input);
    let map = map.inspect(|_| {
        // By now item 300 is sent, and its worker needs nothing else to get to it.
        if pulled.get() > 340 {
            until("item 300 has run", LIMIT, || deaths() > 0);
        }
    });
    report(map, |n| n);
    Ok(())
}

/// The second half of the items panics, with long messages.
pub(crate) fn long_messages(items: u64) -> Outcome {
    let function = |(n, fails): (u64, bool)| {
        assert!(!fails, "item {n} fails {}", "x".repeat(100_000));
        n
    };
    let map = config()?.fastmap(function, (0..items).map(|n| (n, n * 2 >= items)));
    let (mut failures, mut longest) = (0, 0);
    for (n, answer) in map.enumerate() {
        match answer {
            Ok(value) if value == n as u64 => {}
            Err(error) if error.index() == Some(n) => {
                failures += 1;
                let text = error.to_string();
                longest = longest.max(text.len());
                if !text.contains(&format!("item {n} fails xxx")) {
                    println!("wrong message of {n}");
                }
            }
            other => println!("wrong {n}: {other:?}"),
        }
    }
    println!("failures {failures}");
    println!("longest {longest}");
    println!("peak {}", peak_kb());
    Ok(())
}

/// Panics that the function catches, passes on, or both. Which: the number modulo 10.
pub(crate) fn passed_on(items: u64) -> Outcome {
    let function = |n: u64| {
        let swallow = || drop(catch_unwind(|| panic!("swallowed")));
        match n % 10 {
            // As join and rayon pass on.
            1 => {
                let thread = std::thread::spawn(move || panic!("of a thread of item {n}"));
                resume_unwind(thread.join().expect_err("it panics"));
            }
            // What is caught here must not be told of the next item, nor of this one.
            3 => swallow(),
            4 => resume_unwind(Box::new(format!("passed on by item {n}"))),
            6 => {
                swallow();
                resume_unwind(Box::new(format!("passed on by item {n}")));
            }
            7 => {
                swallow();
                panic!("own words of item {n}");
            }
            8 => {
                swallow();
                resume_unwind(Box::new(n));
            }
            9 => panic_any(n),
            _ => {}
        }
        n
    };
    report(config()?.fastmap(function, 0..items), |n| n);
    Ok(())
}

/// One worker is in an item of a map that was dropped. Item 0 of the next ends when all the others have.
pub(crate) fn moves_beside_orphan(folder: &str, workers: u64, others: usize) -> Outcome {
    let config = config()?;
    let folder = Path::new(folder);
    gather(&config, folder.join("workers"), workers as usize)?;
    let first = folder.join("first");
    create_dir(&first)?;
    let function = |folder: &PathBuf, n: u64| {
        if n == 1 {
            leave(folder, &"begun");
            for_ever();
        }
        n
    };
    let mut map = config.fastmap_with(first.clone(), function, 0..3);
    println!("first {:?}", map.next());
    until("the long item has begun", LIMIT, || left(&first) == 1);
    drop(map);
    let second = folder.join("second");
    create_dir(&second)?;
    let function = |(folder, others): &(PathBuf, usize), n: u64| {
        if n == 0 {
            until("the other items are done", LIMIT / 2, || left(folder) == *others);
        } else {
            leave(folder, &n);
        }
        n
    };
    report(config.fastmap_with((second, others), function, 0..=others as u64), |n| n);
    Ok(())
}
