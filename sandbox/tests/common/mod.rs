//! What the test programs share: each starts itself once for a case, as it is and confined, and looks at what comes.
#![allow(dead_code, clippy::missing_panics_doc)]

use std::env;
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::{Duration, Instant};

use fastmap_sandbox::{ConfinementLevel, DenialLog, confine};

/// A child that has not ended by then is killed, which no case expects.
const LIMIT: Duration = Duration::from_secs(120);
const CASE: &str = "SANDBOX_TEST_CASE";
const CONFINED: &str = "SANDBOX_TEST_CONFINED";

pub(crate) static RECORD: DenialLog = DenialLog::new();
static RUNNING: AtomicU32 = AtomicU32::new(7);

/// What was refused, as the record tells it.
pub(crate) fn refused() -> Option<&'static str> {
    RECORD.of_item(7).first().map(|refusal| refusal.call)
}

/// The case for which this process was started.
pub(crate) fn case() -> Option<String> {
    env::var(CASE).ok()
}

/// Confines this process, if it was started so. Before, what a worker would have made before.
pub(crate) fn confine_if_asked() {
    if env::var_os(CONFINED).is_some() {
        let confinement =
            confine(ConfinementLevel::Full, &RECORD, &RUNNING).expect("this kernel has all layers");
        assert_eq!(confinement.holding.len(), 2);
    }
}

/// What became of a child.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs this program for a case, and waits for its end.
pub(crate) fn run(case: &str, confined: bool, variables: &[(&str, &str)]) -> Ended {
    let mut child = Command::new(env::current_exe().expect("a test program has a path"));
    child.env(CASE, case).env_remove(CONFINED).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    child.envs(variables.iter().copied());
    if confined {
        child.env(CONFINED, "1");
    }
    child.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = child.spawn().expect("a test program can be started");
    let pipes = (running.stdout.take(), running.stderr.take());
    let (stdout, stderr) = (pipes.0.expect("it is piped"), pipes.1.expect("it is piped"));
    let (stdout, stderr) = (thread::spawn(|| text(stdout)), thread::spawn(|| text(stderr)));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = running.try_wait().expect("it is a child of this process") {
            break status;
        }
        if Instant::now() > deadline {
            running.kill().expect("it is a child of this process");
        }
        thread::sleep(Duration::from_millis(1));
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().expect("a pipe can be read");
    Ended { status, stdout: text(stdout), stderr: text(stderr) }
}

fn text(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
