//! The service attacks itself before it serves: its own executable, started in a jail, tries all `probes` and tells on
//! its stdout which succeeded.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Executable, Jail};
use crate::jail::probes::probe::PROBE;
use crate::jail::spec::{Limits, SetupError, Spec};

/// The last line of a report.
const END: &str = "end";
/// It takes less than a tenth of a second; on a busy machine that emulates its processor more than 20 s were seen.
const LIMIT: Duration = Duration::from_secs(120);

/// Attacks the jail that this process is in and never returns, if it was started for that; else does nothing. To be
/// called first in `main` of a program that hands its own path to [`Jail::attack`].
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
    println!("{END}");
    std::process::exit(0);
}

/// What a process reported: (its name, whether it succeeded and how it was refused) of each probe.
pub type Report = Vec<(String, Result<(), String>)>;

impl Jail {
    /// Starts `program`, which must call [`probe_if_asked`], in a jail, and lets it try to get out.
    ///
    /// # Errors
    /// [`SetupError::Leaks`] if it can; [`SetupError::SelfTest`] if it could not be run, or did not end.
    pub fn attack(&self, program: &Path) -> Result<Report, SetupError> {
        let failed = |why: String| SetupError::SelfTest(why);
        let program = self.program(program).map_err(|error| failed(error.to_string()))?;
        let executable = Executable::examine(program.path()).map_err(|error| failed(error.to_string()))?;
        let limits = Limits { cpu_time: Some(LIMIT), ..Limits::default() };
        let spec =
            Spec { executable: &executable, environment: &[(PROBE, "1")], zone: None, socket: None, limits };
        let (mut command, guard) = self.command(&spec).map_err(|error| failed(error.to_string()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + LIMIT;
        // What it writes is less than a pipe holds: it never waits for this process.
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => {
                    drop(child.kill().and_then(|()| child.wait()));
                    return Err(failed(format!("it did not end within {LIMIT:?}")));
                }
            }
        };
        guard.end();
        let (mut lines, mut words) = (String::new(), String::new());
        let _unread = child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut lines));
        let _unread = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut words));
        let report =
            read(&lines).ok_or_else(|| failed(format!("it ended early by {status}: {}", words.trim())))?;
        let leaks = report.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(name, _)| name.clone());
        let leaks: Vec<String> = leaks.collect();
        if leaks.is_empty() { Ok(report) } else { Err(SetupError::Leaks(leaks)) }
    }
}

/// Reads a report; `None` if it is not whole, be it that a probe has ended the process.
pub fn read(lines: &str) -> Option<Report> {
    let mut report = Report::new();
    for line in lines.lines() {
        if let Some(name) = line.strip_prefix("able to ") {
            report.push((name.to_owned(), Ok(())));
        } else if let Some((name, how)) = line.strip_prefix("refused ").and_then(|line| line.split_once(": "))
        {
            report.push((name.to_owned(), Err(how.to_owned())));
        } else if line == END {
            return (report.len() == crate::jail::probes::all().count()).then_some(report);
        }
    }
    None
}
