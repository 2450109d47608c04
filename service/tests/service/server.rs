//! The service as a process of its own, with its data in a temporary folder, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fastmap_backends::cloud::Secret;
use fastmap_test_jails::machine::jail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::Client;

#[path = "../postgres/mod.rs"]
pub(crate) mod postgres;

/// What is waited for has come by then.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Data of a service, and its process if it runs.
pub(crate) struct Server {
    data: Arc<tempfile::TempDir>,
    /// Its address; without one it is in the folder.
    database: Option<String>,
    options: Vec<String>,
    /// The service's program.
    program: PathBuf,
    /// Set for the process.
    variables: Vec<(&'static str, PathBuf)>,
    jailed: bool,
    /// Most descriptors of the process.
    descriptors: Option<u64>,
    /// The data lies on a disk of its own.
    mounted: bool,
    process: Option<Child>,
    pub(crate) url: String,
}

pub(crate) fn fastmap() -> Command {
    program(Path::new(FASTMAP), None)
}

/// The command as it was built.
pub(crate) const FASTMAP: &str = env!("CARGO_BIN_EXE_fastmap");

/// The command at `path`, in a process that may have so many descriptors.
fn program(path: &Path, descriptors: Option<u64>) -> Command {
    let mut command = match descriptors {
        Some(most) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", "ulimit -n $0 && exec \"$@\"", &most.to_string()]).arg(path);
            shell
        }
        None => Command::new(path),
    };
    command
        .env_remove("FASTMAP_SECRET")
        .env_remove("FASTMAP_SERVICE_DATA")
        .env_remove("FASTMAP_DATABASE")
        .env("FASTMAP_LOG", "info");
    command
}

impl Server {
    /// Starts a service without a jail, on a free port.
    pub(crate) fn start(options: &[&str]) -> Server {
        Server::start_as(options, false, &[])
    }

    /// The same with these variables set.
    pub(crate) fn start_with(options: &[&str], variables: &[(&'static str, PathBuf)]) -> Server {
        Server::start_as(options, false, variables)
    }

    /// The same with jails. `None`: this user can't make any, and the test is left out.
    pub(crate) fn start_jailed(options: &[&str]) -> Option<Server> {
        jail()?;
        Some(Server::start_as(options, true, &[]))
    }

    /// The same with another copy of the service's program, and with these variables set.
    pub(crate) fn start_jailed_as(
        program: &Path,
        options: &[&str],
        variables: &[(&'static str, PathBuf)],
    ) -> Option<Server> {
        jail()?;
        let mut server = Server::new(options, true, variables);
        program.clone_into(&mut server.program);
        server.restart();
        Some(server)
    }

    fn start_as(options: &[&str], jailed: bool, variables: &[(&'static str, PathBuf)]) -> Server {
        let mut server = Server::new(options, jailed, variables);
        server.restart();
        server
    }

    fn new(options: &[&str], jailed: bool, variables: &[(&'static str, PathBuf)]) -> Server {
        let data = Arc::new(tempfile::tempdir().expect("a folder"));
        // With this set, everything is tried on PostgreSQL.
        let database = std::env::var_os("FASTMAP_TEST_POSTGRES").map(|_| postgres::blocking_database());
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let variables = variables.to_vec();
        Server {
            data,
            database,
            options,
            program: FASTMAP.into(),
            variables,
            jailed,
            descriptors: None,
            mounted: false,
            process: None,
            url: String::new(),
        }
    }

    /// Without a jail, in a process that may have so many descriptors.
    pub(crate) fn start_with_descriptors(descriptors: u64, options: &[&str]) -> Server {
        let mut server = Server::new(options, false, &[]);
        server.descriptors = Some(descriptors);
        server.restart();
        server
    }

    /// The first of several gateways on a PostgreSQL.
    pub(crate) fn start_on_postgres(options: &[&str]) -> Server {
        Server::start_at(&postgres::blocking_database(), options)
    }

    /// The same on the database at that address.
    pub(crate) fn start_at(database: &str, options: &[&str]) -> Server {
        let mut server = Server::new(options, false, &[]);
        server.database = Some(database.to_owned());
        server.restart();
        server
    }

    /// A service with what a copy of the database has, and with the key of this one.
    pub(crate) fn restored(&self, place: impl FnOnce(&Path) -> Option<String>) -> Server {
        let mut server = Server::new(&[], self.jailed, &[]);
        std::fs::copy(self.data().join("service.key"), server.data().join("service.key")).expect("a key");
        server.database = place(server.data());
        server.restart();
        server
    }

    /// Another gateway with the same database and folder.
    pub(crate) fn beside(&self) -> Server {
        let mut server = self.without_process();
        server.restart();
        server
    }

    /// The same database and folder, for commands.
    pub(crate) fn without_process(&self) -> Server {
        Server {
            data: Arc::clone(&self.data),
            database: self.database.clone(),
            options: self.options.clone(),
            program: self.program.clone(),
            variables: self.variables.clone(),
            jailed: self.jailed,
            descriptors: self.descriptors,
            mounted: false,
            process: None,
            url: String::new(),
        }
    }

    /// The database's address, if it is a PostgreSQL.
    pub(crate) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// Without a jail, with its data on a disk of its own of so many bytes. `None`: this user may not mount one.
    pub(crate) fn on_a_small_disk(bytes: u64) -> Option<Server> {
        let mut server = Server::new(&[], false, &[]);
        let options = ["-t", "tmpfs", "-o", &format!("size={bytes}"), "fastmap-test"];
        let mounted = Command::new("mount").args(options).arg(server.data()).stderr(Stdio::null()).status();
        server.mounted = mounted.is_ok_and(|status| status.success());
        if !server.mounted {
            return None;
        }
        server.restart();
        Some(server)
    }

    /// Starts the process (again), on the same port if it had one.
    pub(crate) fn restart(&mut self) {
        let listen = self.url.rsplit_once('/').map_or("127.0.0.1:0", |(_, address)| address).to_owned();
        let own_workers = self.options.iter().any(|option| option == "--workers");
        let mut process = program(&self.program, self.descriptors)
            .arg("serve")
            .args((!self.jailed).then_some("--insecure-no-sandbox"))
            .args(["--workers", "2"].into_iter().filter(|_| !own_workers))
            .args(["--listen", &listen, "--data"])
            .arg(self.data.path())
            .args(&self.options)
            .envs(self.database.iter().map(|url| ("FASTMAP_DATABASE", url)))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the service can be started");
        let lines = lines(process.stdout.take().expect("it is piped"));
        self.process = Some(process);
        let line = lines.recv_timeout(LIMIT).expect("the service says where it listens");
        line.strip_prefix("listening at ").expect("its first line").clone_into(&mut self.url);
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.as_ref().expect("it runs").id() as i32
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it runs");
    }

    /// Waits for the end of the process.
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let begun = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("it is a child") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "the service does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the process and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended();
    }

    /// Runs a command on the service's data.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        let mut command = fastmap();
        command.args(args).arg("--data").arg(self.data.path());
        command.envs(self.database.iter().map(|url| ("FASTMAP_DATABASE", url)));
        command.output().expect("the command can be started")
    }

    /// The same, with JSON to be read; the command must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.command(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// A new account with so many credits, and a client of it.
    pub(crate) fn tenant(&self, name: &str, credits: &str) -> Client {
        self.json(&["account", "create", name, "--credits", credits]);
        self.client(name)
    }

    /// A client with a new token of an account.
    pub(crate) fn client(&self, account: &str) -> Client {
        let token = self.json(&["token", "create", account]);
        let secret: Secret = token["secret"].as_str().expect("a secret").parse().expect("a secret");
        Client::new(&self.url, secret)
    }

    /// The link that `fastmap dashboard` prints for the client's secret.
    pub(crate) fn dashboard(&self, client: &Client) -> String {
        let output = fastmap()
            .args(["dashboard", "--url", &self.url])
            .env("FASTMAP_SECRET", client.secret.reveal())
            .output()
            .expect("the command can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Every balance follows from the ledger.
    pub(crate) fn audit(&self) {
        self.json(&["credits", "audit"]);
    }

    /// An account's balance, in millionths.
    pub(crate) fn balance(&self, account: &str) -> i64 {
        let shown = self.json(&["account", "show", account]);
        fastmap_service::pricing::read(shown["credits"].as_str().expect("credits")).expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _gone = process.kill();
            let _gone = process.wait();
        }
        if self.mounted {
            let _gone = Command::new("umount").arg(self.data.path()).status();
        }
    }
}

pub(crate) fn lines(stdout: std::process::ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A port of this machine that nothing listens at.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Looks until `event` is there, up to the deadline.
pub(crate) fn until<T>(what: &str, mut event: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = event() {
            return value;
        }
        assert!(begun.elapsed() < LIMIT, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command that has nothing to do with a service's data.
pub(crate) fn plain_command(args: &[&str]) -> Output {
    fastmap().args(args).output().expect("the command can be started")
}

/// The stranger's program.
pub(crate) fn worker() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_fastmap-service-test-worker"))
}

/// A dev service: its process, and the two lines.
pub(crate) fn start_dev() -> (Child, Receiver<String>) {
    let mut process = fastmap()
        .args(["serve", "--dev", "--insecure-no-sandbox", "--log", "warn"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the service can be started");
    let lines = lines(process.stdout.take().expect("it is piped"));
    (process, lines)
}
