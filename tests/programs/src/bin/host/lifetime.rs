//! Maps during which the host is signalled, ends, forks, or loses its own file; and what workers see of the world.

use std::collections::BTreeSet;
use std::io::{Read, Write, stdin, stdout};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio, exit, id};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use fastmap::backends::local::INSIDE;
use fastmap::{FastmapConfig, Options};
use fastmap_test_programs::{report, workers};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pause};

use crate::{Outcome, config};

fn endless(how: &str) -> ! {
    println!("begun {}", id());
    loop {
        if how == "sleep" {
            sleep(Duration::from_secs(1000));
        }
    }
}

/// All workers are held up for ever.
pub(crate) fn hold(how: &str) -> Outcome {
    report(config()?.fastmap(|how: String| endless(&how), vec![how.to_owned(); 2]), |_| ());
    Ok(())
}

/// Drops everything while one worker is in a long item.
pub(crate) fn drop_config() -> Outcome {
    let config = config()?;
    let mut map = config.fastmap(|n: u64| if n == 1 { endless("loop") } else { n }, 0..100);
    println!("first {:?}", map.next());
    // The other worker has begun with the long one; tell the test, and go on when it says so.
    stdin().read_line(&mut String::new())?;
    drop(map);
    drop(config);
    println!("dropped");
    stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Maps with the global configuration, which nobody drops, and ends while workers are on their way.
pub(crate) fn global(items: u64, end: &str) -> Outcome {
    fastmap::global_init(Options::new())?;
    report(fastmap::fastmap(|n: u64| n, 0..items), |n| n);
    if end == "exit" {
        exit(0);
    }
    Ok(())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Goes on after a signal that its whole group gets, as after Ctrl-C.
pub(crate) fn handles(name: &str) -> Outcome {
    // SAFETY: the handler stores to an atomic and does nothing else.
    unsafe { signal(name.parse()?, SigHandler::Handler(note)) }?;
    let config = config()?;
    let mut seen = BTreeSet::new();
    let map = config.fastmap(
        |n: u64| {
            sleep(Duration::from_millis(2));
            (n, id())
        },
        0..,
    );
    // Some more after the signal.
    let mut after = 0;
    for (n, answer) in (0..).zip(map) {
        let (answer, worker) = answer?;
        if answer != n {
            println!("wrong {n}: {answer}");
        }
        if seen.insert(worker) {
            println!("worker {worker}");
        }
        after += u64::from(INTERRUPTED.load(Ordering::Relaxed));
        if after == 100 {
            break;
        }
    }
    println!("finished with {} workers", seen.len());
    Ok(())
}

/// A function ends what it has started by SIGTERM: a program, and a copy of its process.
pub(crate) fn ends_children() -> Outcome {
    let end = |pid: u32| kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).expect("it is there");
    let function = move |_: u64| {
        let mut program = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("a process");
        end(program.id());
        let program = program.wait().expect("it is a child").signal();
        // SAFETY: the copy touches nothing of this process, and waits.
        let copy = match unsafe { fork() }.expect("a copy") {
            ForkResult::Child => loop {
                pause();
            },
            ForkResult::Parent { child } => child,
        };
        end(copy.as_raw().cast_unsigned());
        let copy = waitpid(copy, None).expect("it is a child");
        (program, matches!(copy, WaitStatus::Signaled(_, Signal::SIGTERM, _)))
    };
    let (program, copy) = config()?.fastmap(function, 0..1).next().ok_or("no answer")??;
    println!("program {program:?}");
    println!("copy {copy}");
    Ok(())
}

fn pids(config: &FastmapConfig) -> Result<BTreeSet<u32>, fastmap::Error> {
    let wait = |_: u64| {
        sleep(Duration::from_millis(5));
        id()
    };
    config.fastmap(wait, 0..40).collect()
}

/// Forks in the middle of a map; the copies drop, exit and map.
pub(crate) fn forks() -> Outcome {
    let config = config()?;
    let before = pids(&config)?;
    let mut map = config.fastmap(|n: u64| n, 0..100_000);
    println!("first {:?}", map.next());
    for what in ["drop", "map", "go on", "return"] {
        // SAFETY: the copy uses locks of std's output and of the library; that they can be used is what is tested.
        match unsafe { fork() }? {
            ForkResult::Child => {
                match what {
                    "drop" => {
                        drop(map);
                        drop(config);
                    }
                    "map" => println!("copy maps: {:?}", config.fastmap(|n: u64| n, 0..10).next()),
                    "go on" => println!("copy goes on: {:?}", map.find(Result::is_err)),
                    _ => return Ok(()),
                }
                stdout().flush()?;
                // SAFETY: ends this copy, of which nothing is used after.
                unsafe { libc::_exit(0) };
            }
            ForkResult::Parent { child } => println!("copy {what}: {:?}", waitpid(child, None)?),
        }
    }
    report(map, |n| n + 1);
    println!("same workers: {}", pids(&config)? == before);
    Ok(())
}

/// Maps each time a line comes.
pub(crate) fn serve() -> Outcome {
    let config = config()?;
    for line in stdin().lines() {
        line?;
        match pids(&config) {
            Ok(pids) => println!("workers {}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
            Err(error) => println!("error {error}"),
        }
    }
    println!("left {:?}", workers(id().cast_signed()).len());
    Ok(())
}

/// What a worker sees.
pub(crate) fn inside() -> Outcome {
    let look = |_: u64| {
        let file = std::fs::read_link("/proc/self/fd/0").map(|path| path.display().to_string());
        let mut text = String::new();
        let read = stdin().read_to_string(&mut text).is_ok_and(|read| read == 0);
        let variables: Vec<String> =
            std::env::vars_os().map(|(name, _)| name.display().to_string()).collect();
        let begun = std::fs::read("/proc/self/environ").unwrap_or_default();
        let secret = String::from_utf8_lossy(&begun).contains("s3cret");
        (file.unwrap_or_default(), read, variables, secret)
    };
    let (file, read, variables, secret) = config()?.fastmap(look, 0..1).next().ok_or("no answer")??;
    println!("stdin {file}");
    println!("empty {read}");
    println!("secret {secret}");
    for name in variables {
        println!("variable {name}");
    }
    Ok(())
}

/// Every item prints a line in pieces, to both outputs.
pub(crate) fn lines(items: u64) -> Outcome {
    let print = |n: u64| {
        let letter = char::from(b'a' + (n % 26) as u8);
        print!("<{n} ");
        eprint!("<{n} ");
        for _ in 0..40 {
            let piece = letter.to_string().repeat(50);
            print!("{piece}");
            stdout().flush().expect("stdout is read");
            eprint!("{piece}");
        }
        println!(" {n}>");
        eprintln!(" {n}>");
    };
    report(config()?.fastmap(print, 0..items), |_| ());
    Ok(())
}

struct Printer;

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("log {} {} {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// The function logs; the host has a logger that hears up to `Info`.
pub(crate) fn logs() -> Outcome {
    log::set_boxed_logger(Box::new(Printer)).map(|()| log::set_max_level(log::LevelFilter::Info))?;
    let speak = |n: u64| {
        log::info!(target: "function", "info of {n}");
        log::debug!(target: "function", "debug of {n}");
        log::log_enabled!(log::Level::Debug)
    };
    report(config()?.fastmap(speak, 0..20), |_| false);
    Ok(())
}

/// How many of this process's sockets have sends that end, while there are workers.
pub(crate) fn send_limits() -> Outcome {
    let config = config()?;
    let answers =
        config.fastmap(|n: u64| std::thread::sleep(std::time::Duration::from_millis(n)), vec![50; 8]);
    if answers.flatten().count() != 8 {
        return Err("an item failed".into());
    }
    let limited = |fd: i32| {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let mut length = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: both are valid for the call; a number that is no socket is an error.
        let read = unsafe {
            let time = (&raw mut time).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, time, &raw mut length)
        };
        read == 0 && time.tv_sec > 0
    };
    println!("limited {}", (0..256).filter(|fd| limited(*fd)).count());
    Ok(())
}

/// What an item starts, and leaves behind: a program, a fork of its own, a daemon; and one that is to live on.
fn leave() {
    let works = Command::new("echo").arg("works").output().expect("a program that ends");
    print!("output {}", String::from_utf8_lossy(&works.stdout));
    let quiet = |command: &mut Command| {
        command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process").id()
    };
    println!("command {}", quiet(&mut Command::new("sleep")));
    println!("kept {}", quiet(Command::new("sleep").env_remove(INSIDE)));
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo daemon $!";
    print!(
        "{}",
        String::from_utf8_lossy(&Command::new("sh").args(["-c", script]).output().expect("a shell").stdout)
    );
    // SAFETY: the copy touches nothing of this process, and waits.
    match unsafe { fork() }.expect("a copy") {
        ForkResult::Child => loop {
            pause();
        },
        ForkResult::Parent { child } => println!("fork {child}"),
    }
}

/// An item that starts processes and comes to its end so, as its host does.
pub(crate) fn leaves(how: &str) -> Outcome {
    let config =
        if how == "return" { fastmap::global_init(Options::new()).map(|()| None)? } else { Some(config()?) };
    let function = |how: String| {
        leave();
        match &*how {
            "abort" => std::process::abort(),
            "exit" => exit(1),
            "hold" | "timeout" => endless("sleep"),
            _ => (),
        }
    };
    match &config {
        Some(config) => report(config.fastmap(function, [how.to_owned()]), |_| ()),
        None => report(fastmap::fastmap(function, [how.to_owned()]), |_| ()),
    }
    stdin().read_line(&mut String::new())?;
    drop(config);
    if how != "return" {
        stdin().read_line(&mut String::new())?;
    }
    Ok(())
}
