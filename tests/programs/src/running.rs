//! A program that a test has started: its output as it comes, its end, and that it ends with the test.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use nix::sys::signal::{SigHandler, Signal, kill, killpg};
use nix::unistd::Pid;

use crate::program_file::write_program;
use crate::{LIMIT, until};

/// A copy of a program in `folder`, which other users can start wherever this one lies: the folder is opened
/// to them.
pub fn open_copy(of: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("program");
    write_program(&copy, File::open(of).expect("it can be read"));
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("it is our own");
    copy
}

/// A command for a program of this crate: nothing of fastmap in its environment but that it runs locally, with two
/// workers, and says nothing of its own accord.
pub fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("FASTMAP_")) {
            command.env_remove(name);
        }
    }
    command.env("FASTMAP_EXEC_POLICY", "local").env("FASTMAP_VERBOSITY", "quiet");
    command.env("FASTMAP_LOCAL_PROCESSES", "2");
    command
}

/// A running program, the first of its own process group. Dropping it ends the group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
    /// Lines that came, and whether each was given out.
    seen: Vec<(bool, String)>,
}

/// What was left of a program.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All lines of stdout.
    pub stdout: Vec<String>,
    /// All of stderr.
    pub stderr: String,
}

/// Makes the signals of a terminal end the program, as they do in a user's shell: tests that run under `nohup`, or in a
/// script's background, hand down that they are ignored.
fn default_signals() -> std::io::Result<()> {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the default action is no code of this process.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    }
    Ok(())
}

impl Running {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec it calls the kernel alone, by a function that is safe to call there.
        unsafe {
            command.pre_exec(default_signals);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("it is piped");
        let mut stderr = child.stderr.take().expect("it is piped");
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if line.send(String::from_utf8_lossy(&text).into_owned()).is_err() {
                    return;
                }
            }
        });
        let (error, errors) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _unread = stderr.read_to_end(&mut text);
            let _nobody = error.send(String::from_utf8_lossy(&text).into_owned());
        });
        Running { stdin: child.stdin.take(), child, lines, errors, seen: Vec::new() }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the program is there");
    }

    /// Sends its whole process group a signal, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(self.pid()), signal).expect("the program is there");
    }

    /// Writes a line to its stdin.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is open until the end");
        writeln!(stdin, "{line}").expect("the program reads its input");
    }

    /// Waits for a line that begins so, and gives the rest of it. Each line is given once; the order in which lines of
    /// the program and of its workers come does not matter.
    pub fn line(&mut self, begin: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut next = 0;
        loop {
            while let Some((given, line)) = self.seen.get_mut(next) {
                next += 1;
                if let Some(rest) = line.strip_prefix(begin).filter(|_| !*given) {
                    *given = true;
                    return rest.trim().to_owned();
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push((false, line)),
                Err(why) => panic!("no line {begin:?} ({why}), only {:#?}; {}", self.seen, self.last_words()),
            }
        }
    }

    /// The lines that have come so far.
    pub fn so_far(&mut self) -> impl Iterator<Item = &str> {
        self.seen.extend(self.lines.try_iter().map(|line| (false, line)));
        self.seen.iter().map(|(_, line)| line.as_str())
    }

    /// Whether it has ended; its process group may live on.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is a child of this process").is_some()
    }

    fn last_words(&self) -> String {
        self.errors.try_recv().unwrap_or_default()
    }

    /// Closes its stdin and waits for its end.
    pub fn finish(mut self) -> Ended {
        self.stdin = None;
        let mut status = None;
        until(&format!("the end of process {}", self.pid()), LIMIT, || {
            status = self.child.try_wait().expect("it is a child of this process");
            status.is_some()
        });
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push((false, line)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("somebody holds the stdout of a program that has ended")
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let stderr =
            self.errors.recv_timeout(left).expect("nobody holds the stderr of a program that has ended");
        let stdout = std::mem::take(&mut self.seen).into_iter().map(|(_, line)| line).collect();
        Ended { status: status.expect("it has ended"), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not waited for yet, so that the number is still its own.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            let _gone = self.child.wait();
        }
    }
}
