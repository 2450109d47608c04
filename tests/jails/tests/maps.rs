//! Maps whose workers are jailed copies of this program give what they give without jails, failures included.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastmap::backends::local::{OutputSink, Stream};
use fastmap::backends::{Local, LocalOptions, conformance};
use fastmap::{Error, ErrorKind, FastmapConfig};
use fastmap_sandbox::jail::Limits;
use fastmap_test_jails::acts::{self, BAD};
use fastmap_test_jails::{LIMIT, config, jailed, limits, pool, pool_with, until};
use fastmap_test_programs::is_alive;

fastmap::test_support!();

/// Keeps the lines that come.
#[derive(Debug, Default)]
struct Lines(Mutex<Vec<String>>);

impl OutputSink for Lines {
    fn line(&self, _worker: &str, _stream: Stream, line: &[u8]) {
        self.0.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
    }
}

fn in_jails(workers: usize) -> FastmapConfig {
    config(pool(&jailed(limits()), workers))
}

fn locally(workers: usize) -> FastmapConfig {
    config(Local::new(LocalOptions::new(workers)).expect("a pool without workers"))
}

#[test]
fn results_are_those_of_plain_map() {
    let config = in_jails(2);
    let results: Vec<u64> =
        config.fastmap(acts::work, 0..20_000u64).collect::<Result<_, _>>().expect("no item fails");
    assert!(results.into_iter().eq((0..20_000).map(acts::work)));
    let words = (0..3_000u32).map(|n| "word ".repeat(n as usize % 50));
    let upper = |word: String| word.to_uppercase();
    let results: Vec<String> =
        config.fastmap(upper, words.clone()).collect::<Result<_, _>>().expect("no item fails");
    assert!(results.into_iter().eq(words.map(upper)));
}

#[test]
fn contexts_states_and_large_items_get_in_and_out() {
    let config = in_jails(2);
    let scaled = config.fastmap_with(vec![7u64; 300_000], |by: &Vec<u64>, n: u64| by[n as usize] * n, 0..500);
    assert!(scaled.map(|result| result.expect("no item fails")).eq((0..500).map(|n| 7 * n)));
    let large =
        config.fastmap(|item: Vec<u8>| item.iter().rev().copied().collect::<Vec<u8>>(), [vec![1u8; 3 << 20]]);
    assert!(large.map(|result| result.expect("no item fails")).eq([vec![1u8; 3 << 20]]));
    let counts = config.fastmap_init(
        || 0u32,
        |calls: &mut u32, (): ()| {
            *calls += 1;
            *calls
        },
        [(); 50],
    );
    assert_eq!(counts.count(), 50);
}

#[test]
fn a_function_can_tell_its_stack() {
    let look = |(): ()| {
        // SAFETY: plain data, for which zeroes are valid, filled by the calls.
        unsafe {
            let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
            let error = libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes);
            let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
            libc::pthread_attr_getstack(&raw const attributes, &raw mut lowest, &raw mut size);
            let here = (&raw const attributes).addr();
            (error, (lowest.addr()..lowest.addr() + size).contains(&here), size as u64 >= 1 << 20)
        }
    };
    for answer in in_jails(1).fastmap(look, [(); 2]) {
        assert_eq!(answer.expect("no item fails"), (0, true, true));
    }
}

#[test]
fn the_pool_keeps_its_promises_in_jails() -> Result<(), conformance::Failed> {
    conformance::check(pool(&jailed(limits()), 2))
}

/// What is left of an error without the names of the worker that had the item.
fn shape(error: &Error) -> (ErrorKind, Option<usize>, String) {
    let text = error.to_string();
    // Whether a panic's frames are asked for, a pool in jails is not told by this process's environment.
    let text = text.split("\nstack backtrace:").next().unwrap_or_default();
    let (before, after) = text.split_once("worker-").unwrap_or((text, ""));
    let after = after.split_once(") ").map_or(after, |(_, rest)| rest);
    (error.kind(), error.index(), format!("{before}… {after}"))
}

fn answers(config: &FastmapConfig, func: fn(&FastmapConfig) -> Vec<Result<u32, Error>>) -> Vec<String> {
    let tell = |result: &Result<u32, Error>| match result {
        Ok(value) => format!("{value}"),
        Err(error) => format!("{:?}", shape(error)),
    };
    func(config).iter().map(tell).collect()
}

/// A map of 40 items whose bad one does `$act`; every other item's answer is the item.
macro_rules! bad_item {
    ($act:expr) => {
        bad_item!($act, Duration::from_secs(2))
    };
    ($act:expr, $limit:expr) => {
        |config: &FastmapConfig| {
            fn func(n: u32) -> u32 {
                if std::hint::black_box(n) == BAD {
                    let _result = $act;
                }
                n
            }
            config.fastmap(func, 0..40).item_timeout($limit).collect::<Vec<Result<u32, Error>>>()
        }
    };
}

#[test]
fn failures_are_told_as_they_are_without_a_jail() {
    type Act = fn(&FastmapConfig) -> Vec<Result<u32, Error>>;
    let acts: [(&str, Act); 9] = [
        ("panic", bad_item!(acts::panic())),
        ("abort", bad_item!(acts::abort())),
        ("segfault", bad_item!(acts::segfault())),
        ("exit", bad_item!(acts::exit())),
        ("kill", bad_item!(acts::kill())),
        ("raise", bad_item!(acts::raise())),
        ("words", bad_item!(acts::last_words())),
        ("spin", bad_item!(acts::spin())),
        ("sleep", bad_item!(std::thread::sleep(Duration::from_secs(100)))),
    ];
    let (jails, local) = (in_jails(2), locally(2));
    for (name, act) in acts {
        let (jailed, free) = (answers(&jails, act), answers(&local, act));
        assert_eq!(jailed, free, "{name}");
        let failed = free.iter().filter(|answer| answer.contains("Some(13)")).count();
        assert_eq!(failed, 1, "{name}: {free:?}");
    }
}

fn one_failure(results: Vec<Result<u32, Error>>, items: u32) -> Error {
    assert_eq!(results.len(), items as usize);
    let (good, mut bad): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let good: Vec<u32> = good.into_iter().flatten().collect();
    assert!(good.into_iter().eq((0..items).filter(|n| *n != BAD)));
    let error = bad.pop().expect("one item failed").expect_err("it failed");
    assert_eq!(error.index(), Some(BAD as usize), "{error}");
    error
}

#[test]
fn an_item_that_eats_all_memory_is_told_so() {
    // The memory ends first, also where writing it takes a while.
    let act = bad_item!(acts::eat_memory(), LIMIT);
    let jailed = jailed(Limits { memory: 96 << 20, ..limits() });
    let error = one_failure(act(&config(pool(&jailed, 2))), 40).to_string();
    assert!(error.contains("out of memory, of which it may have 96 MiB"), "{error}");
    // Tried once more, alone. Control groups of version 2 end and count all processes of a jail, those of version 1 one.
    assert!(jailed.usage().oom_kills >= 2, "{:?}", jailed.usage());
    assert!(jailed.usage().memory <= 96 << 20, "{:?}", jailed.usage());
}

/// Memory with a name that nothing else finds.
fn memory_file() -> std::fs::File {
    // SAFETY: makes a descriptor, which is the file's own.
    unsafe {
        let fd = libc::memfd_create(c"item".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        std::os::fd::FromRawFd::from_raw_fd(fd)
    }
}

#[test]
fn memory_files_count_as_memory_of_the_worker_and_the_limit_is_named() {
    fn write(megabytes: usize) -> u32 {
        let (mut file, bytes) = (memory_file(), vec![1u8; 1 << 20]);
        (0..megabytes).for_each(|_| file.write_all(&bytes).expect("there is no other limit"));
        file.metadata().map_or(0, |found| (found.len() >> 20) as u32)
    }
    let jailed = jailed(Limits { memory: 96 << 20, ..limits() });
    let config = config(pool(&jailed, 1));
    let mut results = config.fastmap(write, [32, 200]);
    assert_eq!(results.next().expect("one").expect("there is room"), 32);
    assert!(jailed.usage().memory > 32 << 20, "{:?}", jailed.usage());
    let error = results.next().expect("another").expect_err("it is too large").to_string();
    assert!(error.contains("out of memory, of which it may have 96 MiB"), "{error}");
}

#[test]
fn an_item_that_forks_for_ever_is_ended_by_its_timeout() {
    let act = bad_item!(acts::fork_bomb());
    let error = one_failure(act(&in_jails(2)), 40).to_string();
    assert!(error.contains("the item ran for more than 2s"), "{error}");
}

#[test]
fn threads_are_bounded() {
    let jailed = jailed(Limits { processes: 20, ..limits() });
    let config = config(pool(&jailed, 1));
    let made: Vec<u32> = config
        .fastmap(|(): ()| acts::thread_bomb(), [()])
        .collect::<Result<_, _>>()
        .expect("it ends by itself");
    assert!((5..20).contains(&made[0]), "{made:?}");
    assert!(jailed.usage().refused_processes > 0, "{:?}", jailed.usage());
}

#[test]
fn of_an_item_that_prints_megabytes_lines_are_left_out_and_counted_and_none_fails() {
    let lines = Arc::new(Lines::default());
    let relay: Arc<dyn OutputSink> = lines.clone();
    let config = config(pool_with(&jailed(limits()), 2, |options| options.relay = relay));
    let flood = |n: u32| if n == acts::BAD { acts::flood() } else { n };
    let answers: Vec<_> = config.fastmap(flood, 0..40).collect();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let lines = lines.0.lock().expect("no panic");
    let told = |line: &&String| line.starts_with("[fastmap: ");
    let passed_on = lines.iter().filter(|line| !told(line)).count() as u64;
    let left_out = |line: &String| line.split(' ').nth(1)?.parse::<u64>().ok();
    let left_out: u64 = lines.iter().filter(told).filter_map(left_out).sum();
    assert_eq!(passed_on + left_out, acts::FLOOD, "{passed_on} and {left_out}");
    assert!((200..acts::FLOOD / 2).contains(&passed_on), "{passed_on}");
}

#[test]
fn cpu_time_is_bounded_by_the_kernel_itself() {
    let act = |config: &FastmapConfig| {
        config.fastmap(|(): ()| acts::spin(), [()]).collect::<Vec<Result<u32, Error>>>()
    };
    let jailed = jailed(Limits { cpu_time: Some(Duration::from_secs(1)), ..limits() });
    let error = act(&config(pool(&jailed, 1))).remove(0).expect_err("it never ends").to_string();
    // Soft and hard limit are one: whichever the kernel looks at first.
    assert!(error.contains("SIGXCPU") || error.contains("SIGKILL"), "{error}");
}

#[test]
fn cpu_time_is_metered_and_bounded_per_time() {
    fn spin_for(milliseconds: u64) -> Duration {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(milliseconds) {
            acts::work(1);
        }
        Duration::ZERO
    }
    let jailed = jailed(Limits { cpus: 0.3, ..limits() });
    let config = config(pool(&jailed, 1));
    drop(config.fastmap(|n: u64| n, [1]).collect::<Vec<_>>());
    let before = jailed.usage().cpu;
    assert_eq!(config.fastmap(spin_for, [2000u64]).count(), 1);
    let used = jailed.usage().cpu.saturating_sub(before).as_secs_f64();
    // 2 s of 0.3 CPUs; less where the machine is busy, and a period more where one has just begun.
    assert!((0.1..0.8).contains(&used), "{used}");
}

#[test]
fn each_worker_is_another_user_outside_of_its_jail_and_leaves_nothing_behind() {
    let jailed = jailed(limits());
    let local = pool(&jailed, 3);
    let config = config(local.clone());
    let nap = |n: u32| {
        std::thread::sleep(Duration::from_millis(20));
        n
    };
    assert_eq!(config.fastmap(nap, 0..60).count(), 60);
    let user = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let line =
            status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("it is somebody").to_owned();
        line.split_whitespace().next().expect("a number").parse::<u32>().expect("a number")
    };
    let workers = local.workers();
    let mut users: Vec<u32> = workers.iter().map(user).collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), workers.len());
    // Behind those of people and services: in a user namespace of 65,536 numbers, too.
    assert!(users.len() > 1 && users[0] >= 0xa000, "{users:?}");
    let groups: Vec<PathBuf> = workers.iter().flat_map(|pid| groups(*pid)).collect();
    assert!(groups.len() >= workers.len(), "{groups:?}");
    drop((config, local));
    until("the end of the workers' users", || {
        let processes = std::fs::read_dir("/proc").expect("it is there").flatten();
        let mut left =
            processes.filter_map(|process| std::fs::read_to_string(process.path().join("status")).ok());
        !left.any(|status| users.iter().any(|user| status.contains(&format!("Uid:\t{user}\t"))))
    });
    until("the end of the workers' groups", || groups.iter().all(|group| !group.exists()));
}

/// The control groups that a process of a jail is in.
fn groups(pid: u32) -> Vec<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let folder = |line: &str| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        let folder = Path::new("/sys/fs/cgroup").join(names).join(path.trim_start_matches('/'));
        (path.contains("fastmap-jails-") && folder.is_dir()).then_some(folder)
    };
    groups.lines().filter_map(folder).collect()
}

#[test]
fn a_worker_has_no_environment_but_its_mark_and_no_secret() {
    fn names((): ()) -> Vec<String> {
        std::env::vars().map(|(name, _)| name).collect()
    }
    // SAFETY: the tests of this program read no environment at the same time that this could move.
    let mut names: Vec<String> = in_jails(1).fastmap(names, [()]).next().expect("one").expect("an answer");
    names.retain(|name| !name.contains("_THREADS") && name != "GOMAXPROCS" && name != "KMP_AFFINITY");
    names.sort();
    assert_eq!(names, ["FASTMAP_INSIDE_WORKER", "PWD"]);
}

#[test]
fn what_seeds_itself_by_time_and_process_id_draws_other_numbers_in_each_worker() {
    /// As C programs do; and the host name and process id, by which others seed themselves.
    fn draw((): ()) -> (String, [i32; 3]) {
        static SEEDED: std::sync::Once = std::sync::Once::new();
        SEEDED.call_once(|| {
            // SAFETY: a null pointer is allowed; the other call takes a number.
            unsafe { libc::srand(libc::time(std::ptr::null_mut()) as u32 ^ std::process::id()) };
        });
        std::thread::sleep(Duration::from_millis(20));
        let mut name = [0u8; 64];
        // SAFETY: as long as it says; the generator is locked by the C library.
        let drawn = unsafe {
            libc::gethostname(name.as_mut_ptr().cast(), name.len());
            [libc::rand(), libc::rand(), libc::rand()]
        };
        (format!("{} {}", std::process::id(), String::from_utf8_lossy(&name).trim_end_matches('\0')), drawn)
    }
    let results = in_jails(2).fastmap(draw, [(); 60]).map(|result| result.expect("no item fails"));
    let (workers, draws): (BTreeSet<_>, BTreeSet<_>) = results.unzip();
    assert!(workers.len() >= 2, "{workers:?}");
    assert_eq!(draws.len(), 60, "{workers:?}");
}

#[test]
fn a_worker_sees_its_share_of_the_cores_and_may_start_four_threads_for_each_of_the_machine() {
    /// What libraries ask when they choose a number of threads.
    fn share((): ()) -> Vec<String> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        // SAFETY: plain numbers.
        let counted = [libc::_SC_NPROCESSORS_ONLN, libc::_SC_NPROCESSORS_CONF]
            .map(|name| unsafe { libc::sysconf(name) });
        let set = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKIO_WORKER_THREADS"];
        // LLVM's OpenMP of version 19 aborts where the affinity has more cores than these files.
        let variables =
            set.iter().chain([&"KMP_AFFINITY"]).map(|name| std::env::var(name).unwrap_or_default());
        let memory = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
        let numbers = counted.map(|number| number.to_string());
        [cores.to_string()]
            .into_iter()
            .chain(numbers)
            .chain(variables)
            .chain([memory.trim().to_owned()])
            .collect()
    }
    let told = in_jails(1).fastmap(share, [()]).next().expect("one").expect("an answer");
    let memory = limits().memory.to_string();
    assert_eq!(told, ["1", "1", "1", "1", "1", "1", "1", "disabled", &memory]);
    let cores = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    let cores = cores.expect("a number") as u32;
    let jailed = jailed(Limits { memory: 256 << 20, ..Limits::default() });
    let made = config(pool(&jailed, 1)).fastmap(|(): ()| acts::thread_bomb(), [()]).next();
    assert!(made.expect("one").expect("it ends by itself") >= (4 * cores).max(48), "{cores} cores");
}

/// All processes that run as one of these users.
fn processes_of(users: &[String]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("it is there").flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_of = |process: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        users.iter().any(|user| status.contains(&format!("Uid:\t{user}\t")))
    };
    processes.filter(is_of).collect()
}

#[test]
fn jailed_workers_die_with_a_host_that_is_killed() {
    let mut host =
        Command::new(env!("CARGO_BIN_EXE_lasting")).stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(host.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let workers: Vec<String> = lines.take_while(|line| line != "running").collect();
    assert_eq!(workers.len(), 2);
    let user = |worker: &String| {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).expect("it lives");
        let line =
            status.lines().find_map(|line| line.strip_prefix("Uid:\t")).expect("it is somebody").to_owned();
        line.split('\t').next().expect("a number").to_owned()
    };
    let mut users: Vec<String> = Vec::new();
    until("workers that have left root", || {
        users = workers.iter().map(user).collect();
        !users.contains(&"0".to_owned())
    });
    // bubblewrap, its init, and the worker, of each.
    let mut processes = Vec::new();
    until("the workers themselves", || {
        processes = processes_of(&users);
        processes.len() == 6
    });
    host.kill().expect("it is a child");
    host.wait().expect("it is a child");
    // These processes, because another service may have their users by then.
    until("the end of everything that it started", || !processes.iter().any(|process| is_alive(*process)));
}

/// A call by the gate of 32-bit programs, whose numbers the filter does not know.
#[cfg(target_arch = "x86_64")]
fn old_gate((): ()) -> u64 {
    let process: u64;
    // SAFETY: getpid takes nothing and changes one register.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") 20u64 => process,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _
        );
    }
    process
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_gate_of_32_bit_programs_is_closed() {
    let free = locally(1).fastmap(old_gate, [()]).next().expect("one");
    println!("without a jail: {free:?}");
    let error = in_jails(1).fastmap(old_gate, [()]).next().expect("one").expect_err("no way through");
    // SIGSYS where this kernel has that gate at all.
    assert!(error.to_string().contains(if free.is_ok() { "SIGSYS" } else { "SIGSEGV" }), "{error}");
}

#[test]
fn constructors_of_a_library_have_run_in_workers_of_a_test() {
    let config = config(pool(&jailed(limits()), 1));
    let seen: Vec<u32> =
        config.fastmap(|_: u8| fastmap_test_jails::registry(), [0; 3]).map(Result::unwrap).collect();
    assert_eq!((fastmap_test_jails::registry(), seen), (7, vec![7; 3]));
}
