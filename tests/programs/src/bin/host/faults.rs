//! Maps in which items fail in every way that a process can.

use std::hint::black_box;
use std::process::{abort, exit};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_test_programs::report;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};

use crate::{Outcome, config};

#[derive(Clone, Copy, Serialize, Deserialize)]
#[allow(clippy::unsafe_derive_deserialize, reason = "any value may be made of bytes")]
enum Fault {
    Segfault,
    Panic,
    Abort,
    Exit(i32),
    Overflow,
    Kill,
    Memory,
    Hang,
    Spin,
    CloseAll,
    Garbage,
    Lie(u8),
    Flood,
    Stop,
}

impl Fault {
    fn named(name: &str) -> Result<Fault, String> {
        Ok(match name {
            "segfault" => Fault::Segfault,
            "panic" => Fault::Panic,
            "abort" => Fault::Abort,
            "exit-3" => Fault::Exit(3),
            "exit-0" => Fault::Exit(0),
            "overflow" => Fault::Overflow,
            "kill" => Fault::Kill,
            "memory" => Fault::Memory,
            "hang" => Fault::Hang,
            "spin" => Fault::Spin,
            "close-all" => Fault::CloseAll,
            "garbage" => Fault::Garbage,
            "flood" => Fault::Flood,
            "stop" => Fault::Stop,
            other => match other.strip_prefix("lie-").map(str::parse) {
                Some(Ok(which)) => Fault::Lie(which),
                _ => return Err(format!("no fault {other:?}")),
            },
        })
    }

    fn happen(self) {
        match self {
            // SAFETY: none: the fault is what is wanted, and the kernel ends the process for it.
            Fault::Segfault => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
            Fault::Panic => panic!("as asked"),
            Fault::Abort => abort(),
            Fault::Exit(code) => exit(code),
            Fault::Overflow => println!("{}", deep(0)),
            Fault::Kill => raise(Signal::SIGKILL).expect("a process may kill itself"),
            Fault::Memory => {
                limit_memory();
                use_memory();
            }
            Fault::Hang => loop {
                sleep(Duration::from_secs(1000));
            },
            Fault::Spin => loop {
                black_box(());
            },
            // SAFETY: what the library finds closed is its to deal with; nothing here uses it.
            Fault::CloseAll => drop(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) }),
            Fault::Garbage => write_everywhere(&[0xa5; 3000]),
            Fault::Lie(which) => write_everywhere(&lie(which)),
            Fault::Flood => {
                for n in 0..50_000 {
                    log::error!(target: "flood", "{n} {}", "x".repeat(200));
                }
            }
            Fault::Stop => {
                println!("stopping {}", std::process::id());
                raise(Signal::SIGSTOP).expect("a process may stop itself");
            }
        }
    }
}

/// One item segfaults at once, in a worker with as many megabytes as the variable `MEGABYTES` says, whose
/// core is dumped.
pub(crate) fn dumps() -> Outcome {
    let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, most, most)?;
    let init = || vec![1u8; std::env::var("MEGABYTES").map_or(0, |text| text.parse().unwrap_or(0)) << 20];
    let function = |memory: &mut Vec<u8>, n: u64| {
        if n == 3 {
            black_box(memory);
            Fault::Segfault.happen();
        }
        n
    };
    report(config()?.fastmap_init(init, function, 0..10), |n| n);
    println!("limit {most}");
    Ok(())
}

fn deep(depth: u64) -> u64 {
    let here = [depth; 32];
    if black_box(depth) == u64::MAX { 0 } else { deep(depth + 1) + black_box(&here)[7] }
}

/// The process may have some 64 MB more than it has.
fn limit_memory() {
    let now = fastmap_test_programs::status_number("self", "VmSize") * 1024;
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).expect("a limit can be read");
    setrlimit(Resource::RLIMIT_AS, now + (64 << 20), hard).expect("a limit can be lowered");
}

fn use_memory() {
    drop(black_box(vec![1u8; 256 << 20]));
}

/// Writes to every socket that this process has, as far as each takes it.
fn write_everywhere(bytes: &[u8]) {
    for fd in 3..64 {
        for _ in 0..100 {
            // SAFETY: the bytes are there; a number that is no socket is an error.
            let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
            if sent < 0 {
                break;
            }
        }
    }
}

/// A packet as a worker sends it: its own length, that of its content, the content.
fn message(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u64;
    [&(length + 16).to_le_bytes(), &length.to_le_bytes(), bytes].concat()
}

/// The head of a frame of that kind that claims so many bytes behind it, for ticket and job that are likely ones.
fn head(kind: u8, items: u32, length: u64) -> [u8; 72] {
    let mut head = [0u8; 72];
    head[0] = kind;
    head[4..8].copy_from_slice(&items.to_le_bytes());
    head[8] = 1;
    head[16] = 1;
    head[32..40].copy_from_slice(&length.to_le_bytes());
    head
}

/// What no worker of ours sends.
fn lie(which: u8) -> Vec<u8> {
    // A place in the shared memory, and one more than it.
    let placed = |mut head: [u8; 72], place: u64| {
        head[64..72].copy_from_slice(&place.to_le_bytes());
        head
    };
    match which {
        // An answer of a terabyte, of which no more comes.
        0 => message(&head(5, 1, 1 << 40)),
        // A message that never gets to its end.
        1 => [&(1u64 << 20).to_le_bytes()[..], &(1u64 << 20).to_le_bytes(), &[7; 100]].concat(),
        // An answer to a batch of another worker, or of none.
        2 => message(&head(5, 1, 0)),
        // One that lies beyond the shared memory, and one whose place is a place of nothing.
        3 => message(&placed(head(5, 1, 1 << 30), 1)),
        4 => message(&placed(head(5, 1, 8), u64::MAX)),
        // A job refused that it never had.
        5 => {
            let mut refusal = head(7, 0, 7);
            refusal[8] = 0xfe;
            message(&[&refusal[..], b"\0\0\x04oops"].concat())
        }
        // A log record, a refusal and items given back whose payload is said to lie in the shared memory.
        6 => message(&placed(head(8, 0, 100), 1)),
        7 => message(&placed(head(7, 0, 100), 1)),
        // What only the host sends.
        _ => message(&head(2, 1, 0)),
    }
}

fn risky((n, fault): (u64, Option<Fault>)) -> u64 {
    if let Some(fault) = fault {
        eprintln!("item {n} is about to fail");
        fault.happen();
    }
    n * 3 + 1
}

/// `items` items, of which those fail whose number leaves `offset` when divided by `step`.
pub(crate) fn faults(fault: &str, items: u64, step: u64, offset: u64) -> Outcome {
    let fault = Fault::named(fault)?;
    if matches!(fault, Fault::Flood) {
        // Workers send what the host listens to; what it does with it does not matter here.
        log::set_max_level(log::LevelFilter::Error);
    }
    let input = (0..items).map(|n| (n, (n % step == offset).then_some(fault)));
    let config = config()?;
    // The workers are not new.
    let warm = config.fastmap(|n: u64| n, 0..100).flatten().count();
    assert_eq!(warm, 100);
    report(config.fastmap(risky, input), |n| n * 3 + 1);
    Ok(())
}

/// Items that sleep.
pub(crate) fn slow(items: u64, milliseconds: u64) -> Outcome {
    let function = |(n, milliseconds): (u64, u64)| {
        sleep(Duration::from_millis(milliseconds));
        n
    };
    report(config()?.fastmap(function, (0..items).map(|n| (n, milliseconds))), |n| n);
    Ok(())
}

/// Items without an end, of which one comes each `pause` milliseconds and computes for `milliseconds`: workers are woken one by
/// one, beside others that are busy.
pub(crate) fn sparse(pause: u64, milliseconds: u64) -> Outcome {
    let function = |milliseconds: u64| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(milliseconds) {
            std::hint::spin_loop();
        }
        milliseconds
    };
    let items = std::iter::repeat(milliseconds).inspect(|_| sleep(Duration::from_millis(pause)));
    report(config()?.fastmap(function, items), |_| milliseconds);
    Ok(())
}

/// Two items that end as soon as there is a file of that name.
pub(crate) fn until_file(path: &str) -> Outcome {
    let function = |path: String| {
        println!("begun {}", std::process::id());
        while !std::fs::exists(&path).is_ok_and(|there| there) {
            sleep(Duration::from_millis(5));
        }
    };
    report(config()?.fastmap(function, vec![path.to_owned(); 2]), |_| ());
    Ok(())
}

/// Nothing can ever be prepared.
pub(crate) fn init_abort() -> Outcome {
    let init = || {
        eprintln!("no licence found");
        abort()
    };
    report(config()?.fastmap_init(init, |(): &mut (), n: u64| n, 0..1000), |n| n);
    Ok(())
}

/// Workers limit their own memory; one item wants more.
pub(crate) fn init_limit(items: u64) -> Outcome {
    let function = |(): &mut (), n: u64| {
        if n == 500 {
            use_memory();
        }
        n
    };
    report(config()?.fastmap_init(limit_memory, function, 0..items), |n| n);
    Ok(())
}

/// Two workers become idle, and when there is a file of that name a second map begins.
pub(crate) fn stopped_idle(path: &str) -> Outcome {
    let config = config()?;
    let pids: Vec<u32> = config
        .fastmap(
            |n: u64| {
                sleep(Duration::from_millis(n));
                std::process::id()
            },
            vec![50; 8],
        )
        .collect::<Result<_, _>>()?;
    println!("idle {}", pids[0]);
    while !std::fs::exists(path)? {
        sleep(Duration::from_millis(5));
    }
    let function = |n: u64| {
        sleep(Duration::from_millis(1));
        n
    };
    report(config.fastmap(function, 0..100), |n| n);
    Ok(())
}

/// Joins a control group, and maps twenty items of which one wants more memory than that has, and one is killed.
pub(crate) fn greedy(group: &str) -> Outcome {
    std::fs::write(format!("{group}/cgroup.procs"), "0")?;
    let function = |n: u64| {
        if n == 3 {
            raise(Signal::SIGKILL).expect("a process may kill itself");
        }
        if n == 7 {
            std::hint::black_box(vec![1u8; 400 << 20]);
        }
        n
    };
    report(config()?.fastmap(function, 0..20), |n| n);
    Ok(())
}

/// A function whose library ends the process at each item, with many words.
pub(crate) fn library_ends(items: u64) -> Outcome {
    let function = |n: u64| -> u64 {
        for line in 0..25 {
            eprintln!("fatal error {line}: no module of that name; thread {:#x}", (&raw const n).addr());
        }
        exit(1)
    };
    report(config()?.fastmap(function, 0..items), |n| n);
    Ok(())
}
