//! An agent as a process of its own.

use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;

use fastmap_backends::cloud::is_digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::nats::Nats;
use crate::server::{LIMIT, fastmap, lines, until};

/// An agent, killed when it is dropped.
pub(crate) struct Agent {
    data: tempfile::TempDir,
    process: Child,
    _lines: Receiver<String>,
}

impl Agent {
    pub(crate) fn join(nats: &Nats, name: &str, options: &[&str]) -> Agent {
        Agent::join_logging(nats, name, options, ("info", Stdio::inherit()))
    }

    /// The same, with its log at that level and going there.
    pub(crate) fn join_logging(
        nats: &Nats,
        name: &str,
        options: &[&str],
        (level, log): (&str, Stdio),
    ) -> Agent {
        let data = tempfile::tempdir().expect("a folder");
        let mut process = fastmap()
            .args(["agent", "--insecure-no-sandbox", "--workers", "2", "--name", name, "--nats", &nats.url()])
            .arg("--data")
            .arg(data.path())
            .args(options)
            .env("FASTMAP_LOG", level)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("an agent can be started");
        let lines = lines(process.stdout.take().expect("it is piped"));
        let line = lines.recv_timeout(LIMIT).expect("the agent says that it works");
        assert_eq!(line, format!("works as {name}"));
        Agent { data, process, _lines: lines }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).expect("it runs");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the end of the agent", || self.process.try_wait().expect("it is a child"))
    }

    /// Uploads that it has fetched.
    pub(crate) fn files(&self) -> usize {
        let entries = std::fs::read_dir(self.data.path()).expect("its folder").flatten();
        entries.filter(|entry| is_digest(&entry.file_name().to_string_lossy())).count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}
