//! What the tests of jails share: jails around a copy of the running program, pools and configurations of them.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastmap::backends::{Backend, Local, LocalOptions};
use fastmap::{FastmapConfig, Options, Verbosity};
use fastmap_backends::local::{Jailed, LogRecord, OutputSink, Stream};
use fastmap_sandbox::jail::{Jail, Limits};
use fastmap_test_programs::write_program;
use tempfile::TempDir;

pub mod acts;
pub mod machine;
pub mod packets;
pub mod raw;

/// Nothing that is waited for takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Bytes that a worker may print.
pub const OUTPUT: u64 = 256 * 1024;

/// This machine's jails. The program ends where this user can't make any: all its tests take them.
///
/// # Panics
/// If root can't make any.
pub fn jail() -> Jail {
    static JAIL: OnceLock<Jail> = OnceLock::new();
    JAIL.get_or_init(|| machine::jail().unwrap_or_else(|| std::process::exit(0))).clone()
}

/// A copy of a program, under another name and in a folder of its own that other users can't enter, as an
/// upload would be.
///
/// # Panics
/// If it can't be made.
pub fn copy(program: &Path) -> (TempDir, PathBuf) {
    let closed = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().permissions(closed).tempdir().expect("a temporary folder");
    let path = folder.path().join("upload");
    write_program(&path, File::open(program).expect("it can be read"));
    (folder, path)
}

/// The copy of the running program.
static COPY: OnceLock<PathBuf> = OnceLock::new();

/// A static is never dropped: its folder goes when the process ends.
extern "C" fn remove_copy() {
    if let Some(folder) = COPY.get().and_then(|path| path.parent()) {
        let _gone = std::fs::remove_dir_all(folder);
    }
}

/// Jails for a copy of the running program.
///
/// # Panics
/// If it can't run here.
pub fn jailed(limits: Limits) -> Arc<Jailed> {
    let path = COPY.get_or_init(|| {
        let (folder, path) = copy(Path::new("/proc/self/exe"));
        let _kept = folder.keep();
        // SAFETY: the function takes nothing and unwinds nothing.
        unsafe { libc::atexit(remove_copy) };
        path
    });
    Arc::new(Jailed::new(jail(), path, limits).expect("it runs here"))
}

/// Limits that are enough for everything that is no attack, and not for long.
pub fn limits() -> Limits {
    Limits { memory: 256 << 20, processes: 32, ..Limits::default() }
}

/// A pool of jailed workers.
///
/// # Panics
/// If the system has no descriptor left.
pub fn pool(jailed: &Arc<Jailed>, workers: usize) -> Local {
    pool_with(jailed, workers, |_| ())
}

/// The same with other options.
///
/// # Panics
/// If the system has no descriptor left.
pub fn pool_with(jailed: &Arc<Jailed>, workers: usize, change: impl FnOnce(&mut LocalOptions)) -> Local {
    let mut options = jailed.options(workers, OUTPUT);
    options.relay = Arc::new(Silent);
    change(&mut options);
    Local::new(options).expect("a pool without workers")
}

/// Takes no note of what strangers print.
#[derive(Debug)]
struct Silent;

impl OutputSink for Silent {
    fn line(&self, _worker: &str, _stream: Stream, _line: &[u8]) {}

    fn record(&self, _worker: &str, _record: &LogRecord<'_>) {}
}

/// Maps on `backend`.
///
/// # Panics
/// Never: the options are good.
pub fn config(backend: impl Backend + 'static) -> FastmapConfig {
    fastmap::init(Options::new().backend(backend).verbosity(Verbosity::Quiet)).expect("good options")
}

/// Waits until something holds.
///
/// # Panics
/// If it does not come to hold.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a constructor of this library fills, as the registry of a crate is filled; the linker puts it behind those of
/// the test programs.
static REGISTRY: AtomicU32 = AtomicU32::new(0);

extern "C" fn fill() {
    REGISTRY.fetch_add(7, Ordering::Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static FILL: extern "C" fn() = fill;

/// What is in the registry of this process.
pub fn registry() -> u32 {
    REGISTRY.load(Ordering::Relaxed)
}
