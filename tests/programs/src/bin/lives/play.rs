//! One run of a way: the program is started, watched, acted upon and waited for, and what it leaves is
//! counted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_test_programs::{Running, is_alive, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::acts::Group;
use crate::build::build;
use crate::way::{Act, Way};

/// A program that has not ended by then hangs. Under valgrind it takes a minute until the program is hashed.
const DEADLINE: Duration = Duration::from_secs(45);
const SLOW_DEADLINE: Duration = Duration::from_secs(300);
/// A process that lives on for so long after the program's end is left.
const LEFT: Duration = Duration::from_secs(3);
/// Answers after which the program is acted upon; under CLOUD lines, because results come by the batch there.
const ENOUGH: usize = 4;
/// Time without another answer after which there is none on its way, where items never end.
const REST: Duration = Duration::from_secs(1);
/// Time without another line after which none is on its way. Batches go to the service side by side: where
/// later ones arrive first, both workers have items that never end, and the first items are not begun.
const NO_MORE: Duration = Duration::from_secs(5);
/// Naps are longer by this under CLOUD, because lines come a second or two late there.
const SLOWER: &str = " slower=5";

/// A service that soon ends the runs of programs that were killed, so that these do not add up.
const SERVE: [&str; 9] =
    ["serve", "--dev", "--log", "warn", "--workers", "2", "--lease=4", "--long-poll=2", "--agent-lease=4"];

/// Where a map runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Local,
    Cloud,
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Plain, Mode::Local, Mode::Cloud];
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) answered: u64,
    /// Lines of answered items that were not seen.
    pub(crate) lost: u64,
    /// Items with more than one line, or a wrong answer.
    pub(crate) again: u64,
    /// Processes.
    pub(crate) left: u64,
    /// `exit N`, a signal, or that it hangs.
    pub(crate) end: String,
    pub(crate) stderr: String,
    /// Why the program could not be acted upon.
    pub(crate) trouble: Option<String>,
}

/// What all runs share.
#[derive(Debug)]
pub(crate) struct World {
    /// Programs that are built for this.
    programs: TempDir,
    service: Option<Service>,
}

#[derive(Debug)]
struct Service {
    running: Running,
    secret: String,
    url: String,
}

impl World {
    /// Starts a service of its own if there is the path of the command for it.
    pub(crate) fn new(command: Option<&str>) -> World {
        let service = command.map(|command| {
            let mut serve = Command::new(command);
            let mut running = Running::start(serve.args(SERVE));
            let secret = running.line("export FASTMAP_SECRET=");
            let url = running.line("export FASTMAP_CLOUD_URL=");
            Service { running, secret, url }
        });
        World { programs: TempDir::new().expect("a folder"), service }
    }

    /// Plays a way. `None`: it has no meaning there.
    ///
    /// # Errors
    /// What this machine lacks for it.
    pub(crate) fn play(&self, way: &Way, mode: Mode) -> Option<Result<Seen, String>> {
        if mode == Mode::Plain && !way.has_plain {
            return None;
        }
        Some(self.start(way, mode).map(|play| play.finish(way)))
    }

    fn start(&self, way: &Way, mode: Mode) -> Result<Play<'_>, String> {
        let folder = TempDir::new().map_err(|error| error.to_string())?;
        let group = if way.act == Some(Act::Freeze) { Group::new() } else { None };
        let mut command = if way.terminal {
            let mut command = program("script");
            command.args(["-qefc", "exec bash -c \"$LINE\"", "/dev/null"]).env("LINE", way.shell);
            command
        } else {
            let mut command = program("bash");
            command.args(["-c", way.shell]);
            command
        };
        command.env("DIR", folder.path()).env("LIFE_ANSWERS", folder.path().join("answers"));
        command.env("PROGRAM", build(way.program, self.programs.path())?).env("RUST_BACKTRACE", "0");
        let more = match mode {
            Mode::Plain => " map=plain",
            Mode::Cloud if way.act.is_some() => SLOWER,
            _ => "",
        };
        command.env("LIFE", [way.life, more].concat());
        command.env("CGROUP", group.as_ref().map_or(PathBuf::new(), |group| group.folder.clone()));
        // A host and a worker at least, under LOCAL.
        command.env("PROCESSES", if mode == Mode::Local { "2" } else { "1" });
        command.current_dir(folder.path());
        if let (Mode::Cloud, Some(service)) = (mode, &self.service) {
            command.env("FASTMAP_EXEC_POLICY", "cloud");
            command.env("FASTMAP_SECRET", &service.secret).env("FASTMAP_CLOUD_URL", &service.url);
        }
        if !way.needs.is_empty() {
            let mut needs = Command::new("bash");
            needs.env("CGROUP", group.as_ref().map_or(PathBuf::new(), |group| group.folder.clone()));
            let there = needs.args(["-c", &format!("{{ {}; }} >/dev/null 2>&1", way.needs)]).status();
            if !there.is_ok_and(|status| status.success()) {
                return Err("not to be had here".to_owned());
            }
        }
        let slow = way.shell.contains("valgrind");
        let deadline = Instant::now() + if slow { SLOW_DEADLINE } else { DEADLINE };
        let service = if mode == Mode::Cloud { self.service.as_ref() } else { None };
        Ok(Play { running: Running::start(&mut command), folder, group, service, deadline })
    }
}

/// A program under way.
#[derive(Debug)]
pub(crate) struct Play<'w> {
    pub(crate) running: Running,
    folder: TempDir,
    pub(crate) group: Option<Group>,
    service: Option<&'w Service>,
    deadline: Instant,
}

impl Play<'_> {
    /// The host's process.
    pub(crate) fn host(&self) -> Option<i32> {
        let answers = fs::read_to_string(self.folder.path().join("answers")).unwrap_or_default();
        answers.lines().find_map(|line| line.strip_prefix("host ")?.parse().ok())
    }

    /// The process of the service, under CLOUD.
    pub(crate) fn service(&self) -> Option<i32> {
        self.service.map(|service| service.running.pid())
    }

    /// Waits for something.
    ///
    /// # Errors
    /// If it is not so in time.
    pub(crate) fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        while !so(self) {
            if Instant::now() > self.deadline {
                return Err(format!("not in time: {what}"));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whole lines of the file of answers that begin so.
    fn told(&self, begin: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("answers")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.filter_map(|line| line.strip_prefix(begin)).map(str::to_owned).collect()
    }

    /// Lines that the shell of this way has put into a file.
    fn elsewhere(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    /// The processes of this run: all have the path of its folder in their environment.
    fn processes(&self) -> Vec<i32> {
        let mark = format!("DIR={}", self.folder.path().display());
        let is_ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let all = fs::read_dir("/proc").into_iter().flatten();
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_alive(*pid) && is_ours(pid)).collect()
    }

    /// What a shell wrote as the exit code, where the program that was started is not the one that counts.
    fn code(&self) -> Option<i32> {
        fs::read_to_string(self.folder.path().join("code")).ok()?.trim().parse().ok()
    }

    fn finish(mut self, way: &Way) -> Seen {
        let mut trouble = None;
        if let Some(act) = way.act {
            let ready = self.until_answers(way);
            trouble = ready.and_then(|()| self.act(act)).err();
        }
        let outlives = way.act == Some(Act::Close) || way.life.starts_with("daemon");
        let ended = self.until("its end", |play| {
            play.running.has_ended() && (!outlives || play.code().is_some() || !play.told("done").is_empty())
        });
        let left = self.end_what_is_left(ended.is_err());
        let (code, elsewhere) = (self.code(), self.elsewhere());
        let (answers, wrong) = (self.told("answer "), self.told("wrong ").len() as u64);
        // What was written before the end is read to its end.
        let outcome = self.running.finish();
        let seen = by_item(outcome.stdout.iter().map(String::as_str).chain(elsewhere.lines()));
        Seen {
            answered: answers.len() as u64,
            lost: count_lost(&answers, &seen),
            again: wrong + seen.values().filter(|lines| **lines > 1).count() as u64,
            left,
            end: if ended.is_err() { "hangs".to_owned() } else { name_of_end(outcome.status, code) },
            stderr: outcome.stderr,
            trouble,
        }
    }

    /// Waits until there are answers enough, and the lines of all of them.
    fn until_answers(&mut self, way: &Way) -> Result<(), String> {
        let cloud = self.service.is_some();
        let holds = cloud && way.life.contains("hold");
        let rest = if holds { REST } else { Duration::ZERO };
        let (mut before, mut since, mut lines) = (0, Instant::now(), Vec::new());
        let ready = self.until("the first answers with their lines", |play| {
            let elsewhere = play.elsewhere();
            let seen = by_item(play.running.so_far().chain(elsewhere.lines()));
            let answers = play.told("answer ");
            if answers.len() > before || seen.len() > lines.len() {
                (before, since) = (answers.len(), Instant::now());
            }
            let no_more = holds && !seen.is_empty() && since.elapsed() >= NO_MORE;
            let enough = if cloud { seen.len() >= ENOUGH || no_more } else { answers.len() >= ENOUGH };
            // What is printed in floods may be cut under CLOUD.
            let whole = count_lost(&answers, &seen) == 0 || cloud && way.life.contains("print");
            lines = seen.into_keys().collect();
            play.running.has_ended() || enough && whole && since.elapsed() >= rest
        });
        let lines = lines.join(", ");
        ready.map_err(|why| format!("{why}, but {before} answers and the lines of items {lines}"))
    }

    /// Counts the processes that live on, and ends them.
    fn end_what_is_left(&mut self, hangs: bool) -> u64 {
        self.group = None;
        if !hangs {
            self.deadline = Instant::now() + LEFT;
            let _some_are_left = self.until("no process", |play| play.processes().is_empty());
        }
        let left = self.processes();
        self.deadline = Instant::now() + DEADLINE;
        let _some_cannot_be_ended = self.until("the end of what is left", |play| {
            for pid in play.processes() {
                let _has_ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            play.processes().is_empty()
        });
        if hangs { 0 } else { left.len() as u64 }
    }
}

/// Items, with the number of lines of each.
fn by_item<'l>(lines: impl Iterator<Item = &'l str>) -> BTreeMap<String, u64> {
    let mut items = BTreeMap::new();
    for line in lines {
        // A terminal shows what is typed, too: before the line.
        if let Some((_, number)) = line.trim_end().rsplit_once("item ")
            && number.parse::<u64>().is_ok()
        {
            *items.entry(number.to_owned()).or_default() += 1;
        }
    }
    items
}

fn count_lost(answers: &[String], seen: &BTreeMap<String, u64>) -> u64 {
    answers.iter().filter(|number| !seen.contains_key(*number)).count() as u64
}

fn name_of_end(status: ExitStatus, code: Option<i32>) -> String {
    // A shell adds 128 to the number of a signal.
    let code = code.or(status.code());
    let signal =
        status.signal().filter(|_| code.is_none()).or(code.filter(|code| *code > 128).map(|code| code - 128));
    match signal.and_then(|number| Signal::try_from(number).ok()) {
        Some(signal) => signal.to_string(),
        None => format!("exit {}", code.unwrap_or(-1)),
    }
}
