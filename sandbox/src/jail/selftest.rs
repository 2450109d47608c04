//! Self-test of the jail before a service serves: the service's own executable, started in a jail, tries all
//! `probes` and reports on its stdout which succeeded.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Executable, Jail};
use crate::jail::probes::probe::PROBE;
use crate::jail::spec::{Limits, SetupError, Spec};

/// Last line of a report.
const END_LINE: &str = "end";
/// Time limit. The test takes less than 0.1 s; on a busy machine with an emulated processor more than 20 s
/// were seen.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Attacks the jail of this process and never returns, if it was started for that; else does nothing. Must be
/// called first in `main` of a program that passes its own path to [`Jail::attack`].
pub fn probe_if_asked() {
    if std::env::var_os(PROBE).is_none() {
        return;
    }
    for probe in crate::jail::probes::all() {
        match probe.attempt() {
            Ok(()) => println!("able to {}", probe.name),
            Err(error) => println!("refused {}: {error}", probe.name),
        }
    }
    println!("{END_LINE}");
    std::process::exit(0);
}

/// Report of a self-test: for each probe its name, and `Err` with the denial unless it succeeded.
pub type Report = Vec<(String, Result<(), String>)>;

impl Jail {
    /// Starts `program`, which must call [`probe_if_asked`], in a jail, and lets it try to break out.
    ///
    /// # Errors
    /// [`SetupError::Leaks`] if it succeeds; [`SetupError::SelfTest`] if it could not be run, or did not exit
    /// in time.
    pub fn attack(&self, program: &Path) -> Result<Report, SetupError> {
        let failed = |why: String| SetupError::SelfTest(why);
        let program = self.program(program).map_err(|error| failed(error.to_string()))?;
        let executable = Executable::examine(program.path()).map_err(|error| failed(error.to_string()))?;
        let limits = Limits { cpu_time: Some(TIME_LIMIT), ..Limits::default() };
        let spec =
            Spec { executable: &executable, environment: &[(PROBE, "1")], zone: None, socket: None, limits };
        let (mut command, guard) = self.command(&spec).map_err(|error| failed(error.to_string()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + TIME_LIMIT;
        // The report fits into a pipe's buffer, so the child never blocks on this process.
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => {
                    drop(child.kill().and_then(|()| child.wait()));
                    return Err(failed(format!("it did not end within {TIME_LIMIT:?}")));
                }
            }
        };
        guard.end();
        let (mut lines, mut stderr_text) = (String::new(), String::new());
        let _unread = child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut lines));
        let _unread = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut stderr_text));
        let report = read(&lines)
            .ok_or_else(|| failed(format!("it ended early by {status}: {}", stderr_text.trim())))?;
        let leaks = report.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(name, _)| name.clone());
        let leaks: Vec<String> = leaks.collect();
        if leaks.is_empty() { Ok(report) } else { Err(SetupError::Leaks(leaks)) }
    }
}

/// Parses a report; `None` if it is incomplete, for example because a probe has ended the process.
pub fn read(lines: &str) -> Option<Report> {
    let mut report = Report::new();
    for line in lines.lines() {
        if let Some(name) = line.strip_prefix("able to ") {
            report.push((name.to_owned(), Ok(())));
        } else if let Some((name, how)) = line.strip_prefix("refused ").and_then(|line| line.split_once(": "))
        {
            report.push((name.to_owned(), Err(how.to_owned())));
        } else if line == END_LINE {
            return (report.len() == crate::jail::probes::all().count()).then_some(report);
        }
    }
    None
}
