//! A function whose library has threads of its own (GCC's OpenMP, LLVM's, OpenBLAS): how long plain `map` takes, and how long
//! workers do, for several settings of threads and workers. The settings take turns, in several rounds; the table has
//! medians, and least and most. `scripts/try-openmp` runs it.
//!
//! ```text
//! openmp [ROUNDS]            the table
//! openmp measure LIBRARY     one round of one setting, which its environment has
//! ```

use std::error::Error;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use fastmap::{Options, Verbosity, fastmap_main};

/// Items of each map.
const ITEMS: i32 = 20;

/// What a library is made with, and the variable that sets its threads.
struct Library {
    name: &'static str,
    source: &'static str,
    compiler: &'static [&'static str],
    linked: &'static [&'static str],
    variable: &'static str,
}

const LIBRARIES: [Library; 3] = [
    Library {
        name: "libgomp",
        source: include_str!("openmp.c"),
        compiler: &["cc", "-fopenmp"],
        linked: &["-lm"],
        variable: "OMP_NUM_THREADS",
    },
    Library {
        name: "libomp",
        source: include_str!("openmp.c"),
        compiler: &["clang", "-fopenmp=libomp"],
        linked: &["-lm"],
        variable: "OMP_NUM_THREADS",
    },
    Library {
        name: "OpenBLAS",
        source: include_str!("openblas.c"),
        compiler: &["cc"],
        linked: &["-lopenblas"],
        variable: "OPENBLAS_NUM_THREADS",
    },
];

/// The functions of a compiled library.
#[derive(Clone, Copy)]
struct Functions {
    threads: extern "C" fn() -> i32,
    kernel: extern "C" fn(i32) -> f64,
}

/// Loads a library, once in each process. It stays.
fn functions(library: &Path) -> Functions {
    static LOADED: OnceLock<Functions> = OnceLock::new();
    *LOADED.get_or_init(|| {
        let path = CString::new(library.to_str().expect("a plain path")).expect("no zero byte");
        // SAFETY: constant strings; the library is one of those above, whose functions have these types.
        unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null(), "{} can't be loaded", library.display());
            let [threads, kernel] = [c"threads", c"kernel"].map(|name| libc::dlsym(handle, name.as_ptr()));
            assert!(!threads.is_null() && !kernel.is_null(), "it has not its functions");
            Functions {
                threads: std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> i32>(threads),
                kernel: std::mem::transmute::<*mut libc::c_void, extern "C" fn(i32) -> f64>(kernel),
            }
        }
    })
}

/// Prints the threads and seconds of plain `map`, then those of workers.
fn measure(library: &Path) -> Result<(), Box<dyn Error>> {
    let plain = functions(library);
    let map = || -> f64 { (0..ITEMS).map(|item| (plain.kernel)(item)).sum() };
    // The library starts its threads.
    (plain.kernel)(0);
    let begun = Instant::now();
    let sum = map();
    let seconds = begun.elapsed().as_secs_f64();
    let config = fastmap::init(Options::new().verbosity(Verbosity::Quiet))?;
    let workers = |items| -> Result<Vec<(i32, f64)>, fastmap::Error> {
        let path = library.to_owned();
        config
            .fastmap_with(
                path,
                |path: &PathBuf, item: i32| {
                    let library = functions(path);
                    ((library.threads)(), (library.kernel)(item))
                },
                0..items,
            )
            .collect()
    };
    // The workers start, and their libraries' threads.
    workers(ITEMS)?;
    let begun = Instant::now();
    let results = workers(ITEMS)?;
    let by_workers = begun.elapsed().as_secs_f64();
    let other: f64 = results.iter().map(|(_, value)| value).sum();
    // Threads add in another order.
    assert!((sum - other).abs() <= sum.abs().max(1.0) * 1e-6, "{sum} is not {other}");
    let most = results.iter().map(|(threads, _)| *threads).max().unwrap_or(0);
    println!("{} {seconds} {most} {by_workers}", (plain.threads)());
    Ok(())
}

/// What is set for a run, beside the number of workers; `None`: as many as without a setting.
struct Setting {
    variables: &'static [(&'static str, &'static str)],
    workers: Option<usize>,
}

/// Stands for the variable of the library by which its threads are set.
const THREADS: &str = "THREADS";

const SETTINGS: [Setting; 5] = [
    Setting { variables: &[], workers: None },
    Setting { variables: &[("OMP_PROC_BIND", "true")], workers: None },
    Setting { variables: &[(THREADS, "1")], workers: None },
    Setting { variables: &[(THREADS, "1"), ("OMP_PROC_BIND", "true")], workers: None },
    Setting { variables: &[], workers: Some(1) },
];

impl Setting {
    /// The variables of a run.
    fn of(&self, library: &Library) -> Vec<(&'static str, String)> {
        let named = |name| if name == THREADS { library.variable } else { name };
        let variables = self.variables.iter().map(|&(name, value)| (named(name), value.to_owned()));
        variables
            .chain(self.workers.map(|workers| ("FASTMAP_LOCAL_PROCESSES", workers.to_string())))
            .collect()
    }
}

/// One run's figures: threads of the library and seconds, of plain `map` and of workers.
struct Measured {
    threads: usize,
    map: f64,
    in_worker: usize,
    workers: f64,
}

fn run_one(library: &Library, path: &Path, setting: &Setting) -> Result<Measured, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("measure").arg(path);
    for name in [
        "OMP_NUM_THREADS",
        "OMP_PROC_BIND",
        "OPENBLAS_NUM_THREADS",
        "FASTMAP_LOCAL_PROCESSES",
        "FASTMAP_SECRET",
    ] {
        command.env_remove(name);
    }
    let output = command.envs(setting.of(library)).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [threads, map, in_worker, workers] = fields[..] else {
        return Err(format!("{}: {text}{}", library.name, String::from_utf8_lossy(&output.stderr)).into());
    };
    Ok(Measured {
        threads: threads.parse()?,
        map: map.parse()?,
        in_worker: in_worker.parse()?,
        workers: workers.parse()?,
    })
}

/// Median, least and most of the rounds.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2}–{:.2})", values[values.len() / 2], values[0], values[values.len() - 1])
}

fn compile(library: &Library, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let source = folder.join(format!("{}.c", library.name));
    let path = folder.join(format!("{}.so", library.name));
    std::fs::write(&source, library.source)?;
    let mut command = Command::new(library.compiler[0]);
    command.args(&library.compiler[1..]).args(["-O2", "-shared", "-fPIC"]).arg(&source).arg("-o").arg(&path);
    let status = command.args(library.linked).status()?;
    if status.success() { Ok(path) } else { Err(format!("{} can't be compiled", library.name).into()) }
}

fn table(rounds: usize) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let cores = std::thread::available_parallelism()?.get();
    println!("| {cores} cores | set | workers | threads in each | seconds | times as fast as plain `map` |");
    println!("|---|---|---|---|---|---|");
    for library in &LIBRARIES {
        let path = compile(library, folder.path())?;
        let mut measured: Vec<Vec<Measured>> = SETTINGS.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (setting, all) in SETTINGS.iter().zip(&mut measured) {
                all.push(run_one(library, &path, setting)?);
            }
        }
        // Plain `map` is as a program has it that sets nothing, in the same round.
        let plain = &measured[0];
        let threads = plain[0].threads;
        println!(
            "| {} | nothing | plain `map` | {threads} | {} | 1 |",
            library.name,
            spread(plain.iter().map(|one| one.map))
        );
        for (setting, all) in SETTINGS.iter().zip(&measured) {
            let set: Vec<String> =
                setting.of(library).iter().map(|(name, value)| format!("`{name}={value}`")).collect();
            println!(
                "| {} | {} | {} | {} | {} | {} |",
                library.name,
                if set.is_empty() { "nothing".to_owned() } else { set.join(", ") },
                setting.workers.unwrap_or((2 * cores).saturating_sub(2).max(1)),
                all[0].in_worker,
                spread(all.iter().map(|one| one.workers)),
                spread(plain.iter().zip(all).map(|(plain, one)| plain.map / one.workers)),
            );
        }
    }
    Ok(())
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", library] => measure(Path::new(library)),
        [] => table(5),
        [rounds] => table(rounds.parse()?),
        _ => Err("openmp [ROUNDS], or openmp measure LIBRARY".into()),
    }
}

fastmap_main!(run);
