//! A NATS server of a test's own: a real process on a free port, with JetStream in a temporary folder.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Nats {
    folder: TempDir,
    process: Option<Child>,
    port: Option<u16>,
    variables: Vec<(&'static str, &'static str)>,
}

impl Nats {
    /// A server that lets everybody in.
    pub(crate) fn start() -> Nats {
        Nats::configured("", &[])
    }

    /// One with more in its configuration, and these variables in its environment.
    pub(crate) fn configured(more: &str, variables: &[(&'static str, &'static str)]) -> Nats {
        Nats::with_jetstream("", more, variables)
    }

    /// The same with more in the part about JetStream.
    pub(crate) fn with_jetstream(
        jetstream: &str,
        more: &str,
        variables: &[(&'static str, &'static str)],
    ) -> Nats {
        let folder = tempfile::tempdir().expect("a folder");
        let mut nats = Nats { folder, process: None, port: None, variables: variables.to_vec() };
        let path = nats.folder.path().display();
        let text = format!(
            "ports_file_dir: \"{path}\"\njetstream {{ store_dir: \"{path}/store\"\n{jetstream} }}\n{more}\n"
        );
        fs::write(nats.folder.path().join("nats.conf"), text).expect("room on the disk");
        nats.restart();
        nats
    }

    /// Starts the process (again), on the same port if it had one.
    pub(crate) fn restart(&mut self) {
        let port = self.port.map_or("-1".to_owned(), |port| port.to_string());
        let process = Command::new(nats_server())
            .arg("--config")
            .arg(self.folder.path().join("nats.conf"))
            .args(["--addr", "127.0.0.1", "--port", &port])
            .envs(self.variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.unwrap_or_else(|error| panic!("no nats-server (scripts/setup test): {error}"));
        self.process = Some(process);
        let begun = Instant::now();
        let url = loop {
            if let Some(url) = self.listens_for("nats") {
                break url;
            }
            assert!(begun.elapsed() < LIMIT, "the NATS server does not start");
            std::thread::sleep(Duration::from_millis(10));
        };
        self.port = url.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok());
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.expect("it was started"))
    }

    fn listens_for(&self, kind: &str) -> Option<String> {
        let process = self.process.as_ref()?.id();
        let ports = self.folder.path().join(format!("nats-server_{process}.ports"));
        // It may be half written.
        let ports: Value = serde_json::from_slice(&fs::read(ports).ok()?).ok()?;
        Some(ports[kind][0].as_str()?.to_owned())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _gone = process.kill();
            let _gone = process.wait();
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// On the PATH, or where scripts/setup has put it: beside the tests' own folder.
fn nats_server() -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let in_tools =
        this.ancestors().map(|folder| folder.join("tools/bin/nats-server")).find(|path| path.exists());
    match Command::new("nats-server").arg("--version").stdout(Stdio::null()).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => in_tools.unwrap_or_default(),
        _ => PathBuf::from("nats-server"),
    }
}
