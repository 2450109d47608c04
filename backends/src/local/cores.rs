//! The cores that this program was started with. Where `OMP_PROC_BIND`, `OMP_PLACES` or `GOMP_CPU_AFFINITY` ask for
//! it, as is usual on clusters, the constructor of GCC's OpenMP library binds a program's first thread to one core
//! before `main`, and all threads and processes that this thread starts have that core alone. So the cores are noted
//! before any constructor runs and when `main` begins: what has changed between was a library's doing, and workers have
//! the cores from before. What the program itself chooses in `main` holds for its workers.

use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::execution::mappings::objects;

/// Before the constructors of libraries.
static AT_START: OnceLock<CpuSet> = OnceLock::new();
/// When `main` began.
static AT_MAIN: OnceLock<CpuSet> = OnceLock::new();

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// What asks OpenMP's libraries to bind threads to cores.
const VARIABLES: [&str; 4] = ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"];
/// Parts of the names of OpenMP's libraries: GCC's, LLVM's, Intel's.
const LIBRARIES: [&str; 3] = ["libgomp", "libomp", "libiomp"];

/// Notes the cores that this program was started with. The loader calls it before the constructors of libraries.
pub extern "C" fn note_at_start() {
    if let Ok(cores) = sched_getaffinity(THIS) {
        let _first = AT_START.set(cores);
    }
}

/// Notes the cores with which `main` begins.
pub(super) fn note_at_main() {
    if let Ok(cores) = sched_getaffinity(THIS) {
        let _first = AT_MAIN.set(cores);
    }
}

/// The cores that this program was started with, if a library's constructor has taken some from this thread.
fn taken() -> Option<CpuSet> {
    let (start, main) = (AT_START.get()?, AT_MAIN.get()?);
    // Where the thread's cores are no longer those with which `main` began, the program has chosen them, and
    // keeps them.
    (start != main && sched_getaffinity(THIS).as_ref() == Ok(main)).then_some(*start)
}

/// Gives this thread the cores back that a library's constructor has taken.
pub(super) fn take_back() {
    if let Some(cores) = taken() {
        // A group that has lost these cores meanwhile leaves the thread where it is.
        let _changed = sched_setaffinity(THIS, &cores);
    }
}

/// The cores that this thread may use, or could but for a library's constructor.
pub(super) fn own() -> CpuSet {
    taken().unwrap_or_else(|| sched_getaffinity(THIS).unwrap_or_default())
}

/// How many of them.
pub(super) fn count(cores: &CpuSet) -> usize {
    (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap_or(false)).count()
}

/// How many threads of this program can run at a time: by its cores, and by its control group's share of CPU time.
pub fn available() -> usize {
    let ask = || std::thread::available_parallelism().map_or(1, usize::from);
    if taken().is_none() {
        return ask();
    }
    // On a thread of its own, because the calling thread keeps the cores that it has.
    let widened = std::thread::Builder::new().spawn(move || {
        take_back();
        ask()
    });
    widened.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(ask)
}

/// A warning, where OpenMP binds the threads of several workers to the same core: each library that is loaded
/// into a worker chooses among the same cores, as it can't know of the other workers.
pub(super) fn binding(workers: usize) -> Option<String> {
    let set = VARIABLES.into_iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| binds(value))?;
        Some(format!("{name}={value}"))
    })?;
    // Not noted, its doing may have left this program one core and one worker.
    let several = workers > 1 || AT_START.get().is_none();
    let off = std::env::var("OMP_PROC_BIND").is_ok_and(|value| !binds(&value));
    let loaded = || objects().iter().any(|object| LIBRARIES.iter().any(|name| object.name.contains(name)));
    let unnoted = match AT_START.get() {
        Some(_) => "",
        None => {
            ", and may have bound this program before main (fastmap_main! makes one that sees its cores all the same)"
        }
    };
    (several && !off && loaded()).then(|| {
        format!(
            "fastmap: warning: {set} has OpenMP bind the first thread of each worker to the same core, once the function \
             uses it{unnoted}: set OMP_PROC_BIND=false for several workers of one thread each, or \
             FASTMAP_LOCAL_PROCESSES=1 for one of many\n"
        )
    })
}

/// Whether a value of one of the variables asks for binding.
fn binds(value: &str) -> bool {
    !value.is_empty() && !["false", "none", "disabled"].contains(&value.to_ascii_lowercase().as_str())
}
