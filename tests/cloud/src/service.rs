//! A service on loopback with data of its own, which ends with the test.

use std::process::Command;
use std::sync::Arc;

use fastmap_test_programs::{Running, program};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A running service, or one gateway of it.
#[derive(Debug)]
pub struct Service {
    command: String,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    data: Arc<TempDir>,
    running: Running,
    /// Its address.
    pub url: String,
}

/// What a client needs to use a service.
#[derive(Clone, Debug)]
pub struct Account {
    /// As the service showed it.
    pub secret: String,
    /// Where the service is.
    pub url: String,
}

impl Service {
    /// Starts `fastmap serve` without jails, of which the tests of the service know more. `command` is its path.
    pub fn start(command: &str, options: &[&str]) -> Service {
        Service::start_with(command, options, &[])
    }

    /// The same, with more in its environment.
    pub fn start_with(command: &str, options: &[&str], environment: &[(&str, &str)]) -> Service {
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let data = Arc::new(TempDir::new().expect("a folder"));
        Service::with(command.to_owned(), options, environment.collect(), data)
    }

    /// Starts another gateway of the same service, which has a database that gateways can share.
    pub fn beside(&self) -> Service {
        let (options, environment) = (self.options.clone(), self.environment.clone());
        Service::with(self.command.clone(), options, environment, Arc::clone(&self.data))
    }

    fn with(
        command: String,
        options: Vec<String>,
        environment: Vec<(String, String)>,
        data: Arc<TempDir>,
    ) -> Service {
        let mut serve = Command::new(&command);
        serve.args(["serve", "--insecure-no-sandbox", "--workers", "2", "--listen", "127.0.0.1:0", "--data"]);
        serve.arg(data.path()).args(&options).envs(environment.iter().cloned()).env("FASTMAP_LOG", "warn");
        let mut running = Running::start(&mut serve);
        let url = running.line("listening at ");
        Service { command, options, environment, data, running, url }
    }

    /// A new account with so many credits.
    pub fn account(&self, name: &str, credits: &str) -> Account {
        self.ask(&["account", "create", name, "--credits", credits]);
        let token = self.ask(&["token", "create", name]);
        let secret = token["secret"].as_str().expect("a secret").to_owned();
        Account { secret, url: self.url.clone() }
    }

    /// What a command says of the service's data.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let output = Command::new(&self.command)
            .args(arguments)
            .arg("--json")
            .arg("--data")
            .arg(self.data.path())
            .envs(self.environment.iter().cloned())
            .output()
            .expect("the command can be started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The runs of an account, newest first.
    pub fn runs(&self, account: &str) -> Vec<Value> {
        let list = self.ask(&["runs", "list", account]);
        list.as_array().or_else(|| list["runs"].as_array()).expect("a list").clone()
    }

    /// Kills it.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends it a signal; its workers get none.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }
}

impl Account {
    /// A program under the policy cloud, by this account, that tells what it has to tell.
    pub fn program(&self, path: &str, arguments: &[&str]) -> Command {
        let mut command = program(path);
        command.args(arguments).env("FASTMAP_EXEC_POLICY", "cloud").env("FASTMAP_VERBOSITY", "normal");
        command.env("FASTMAP_SECRET", &self.secret).env("FASTMAP_CLOUD_URL", &self.url);
        command
    }
}
