//! The Python peers: each measurement is a run of `peers.py`, which measures itself and writes seconds.

use std::process::{Command, Stdio};

use crate::measure::{Entry, Method, Outcome, rounds};

const SCRIPT: &str = "benches/peers.py";
/// Seconds that a measurement may take; some peers need minutes for tiny items.
const LIMIT: &str = "60";
/// Some take seconds to start, and differ from `map` by factors: few rounds tell enough.
const ROUNDS: usize = 3;

/// What the Python peers reach in one workload, Python's own `map` first; nothing without a Python. What is not
/// installed is left out; what fails or takes too long has no values.
pub(crate) fn measure(method: &Method, workload: &str) -> Outcome {
    let Some(python) = &method.python else { return Outcome::default() };
    let run = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg(LIMIT).arg(python).arg(SCRIPT).args(words).stderr(Stdio::null()).stdin(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let entry = |tool: &str| {
        let (tool, workload) = (tool.to_owned(), workload.to_owned());
        Entry::new(format!("Python: {tool}"), move || run(&[&tool, &workload])?.trim().parse().ok())
    };
    let tools = run(&["list", workload]).unwrap_or_default();
    let few = Method {
        rounds: method.rounds.min(ROUNDS),
        attempts: method.attempts.min(2),
        python: None,
        ..*method
    };
    rounds(&few, tools.split_whitespace().map(entry).collect())
}
