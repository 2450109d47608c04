//! A service on many machines, as docs/operations.md describes it: three NATS servers, `PostgreSQL`, two gateways behind a
//! balancer, agents with jails, and the machine of a client. Each is a network namespace, and each server the real one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fastmap_test_programs::{LIMIT, Running, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Account, Machine, Network, Postgres, tool};

/// Where clients find the service: the balancer stands on their machine.
const BALANCER: &str = "127.0.0.1:8750";
const PASSWORDS: [(&str, &str); 2] =
    [("FASTMAP_NATS_GATEWAY", "ofGateways"), ("FASTMAP_NATS_AGENT", "ofAgents")];

/// The machines and what runs on them.
#[derive(Debug)]
pub struct Cluster {
    command: String,
    options: Settings,
    database: String,
    /// Of NATS, of the gateways, of the agents.
    nats: Vec<Node>,
    gateways: Vec<Node>,
    agents: Vec<Node>,
    /// The client's machine.
    client: Machine,
    _balancer: Running,
    _postgres: Postgres,
    folder: TempDir,
    network: Network,
}

/// What a cluster is given.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Agents from the start.
    pub agents: usize,
    /// Workers of each.
    pub workers: usize,
    /// Seconds of an agent's silence after which others get its batches.
    pub lease: u64,
}

/// A server on a machine of its own.
#[derive(Debug)]
struct Node {
    machine: Machine,
    running: Running,
}

impl Cluster {
    /// Starts all of it; `command` is the path of `fastmap`. `None`: this user may make no network namespaces.
    pub fn start(command: &str, options: Settings) -> Option<Cluster> {
        let mut network = Network::new()?;
        let folder = TempDir::new().expect("a folder");
        let nats = start_nats(&mut network, command, folder.path());
        let machine = network.machine();
        let options_of_postgres = ["--durable", "--address", &machine.address, "--port", "5432"];
        let postgres = machine.inside(|| Postgres::start(&options_of_postgres));
        let gateways: Vec<_> = (0..2).map(|_| network.machine()).collect();
        let client = network.machine();
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/haproxy/haproxy.cfg");
        let mut balancer = Command::new("/usr/sbin/haproxy");
        balancer
            .args(["-db", "-f", config])
            .env("FASTMAP_BIND", BALANCER)
            .env("FASTMAP_GATEWAY_1", format!("{}:8750", gateways[0].address))
            .env("FASTMAP_GATEWAY_2", format!("{}:8750", gateways[1].address));
        let balancer = client.start(&mut balancer);
        let mut cluster = Cluster {
            command: command.to_owned(),
            options,
            database: postgres.url.clone(),
            nats,
            gateways: Vec::new(),
            agents: Vec::new(),
            client,
            _balancer: balancer,
            _postgres: postgres,
            folder,
            network,
        };
        for machine in gateways {
            let running = cluster.gateway(&machine);
            cluster.gateways.push(Node { machine, running });
        }
        for _ in 0..options.agents {
            let machine = cluster.network.machine();
            let running = cluster.agent(&machine);
            cluster.agents.push(Node { machine, running });
        }
        Some(cluster)
    }

    fn nats(&self) -> String {
        let urls: Vec<_> =
            self.nats.iter().map(|node| format!("nats://{}:4222", node.machine.address)).collect();
        urls.join(",")
    }

    /// A command of `fastmap` on the service's data.
    fn fastmap(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.command);
        command.args(arguments).env("FASTMAP_LOG", "info").env("FASTMAP_DATABASE", &self.database);
        // What gateways have in common.
        command.env("FASTMAP_SERVICE_DATA", self.folder.path().join("data"));
        command
    }

    fn gateway(&self, machine: &Machine) -> Running {
        let (listen, lease) = (format!("{}:8750", machine.address), self.options.lease.to_string());
        let nats = self.nats();
        let mut serve =
            self.fastmap(&["serve", "--listen", &listen, "--nats", &nats, "--nats-user", "gateway"]);
        serve.args(["--nats-replicas", "3", "--agent-lease", &lease]);
        let mut running = machine.start(serve.env("FASTMAP_NATS_PASSWORD", PASSWORDS[0].1));
        running.line("listening at ");
        running
    }

    fn agent(&self, machine: &Machine) -> Running {
        let mut agent = Command::new(&self.command);
        agent.args(["agent", "--nats", &self.nats(), "--nats-user", "agent", "--name", &machine.name()]);
        agent.args(["--workers", &self.options.workers.to_string(), "--data"]);
        agent.arg(self.folder.path().join(machine.name()));
        let mut running = machine.start(agent.env("FASTMAP_NATS_PASSWORD", PASSWORDS[1].1));
        running.line("works as ");
        running
    }

    /// What a command says of the service's data.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let mut command = self.fastmap(&[arguments, &["--json"]].concat());
        let output = self.client.inside(|| command.output()).expect("the command can be started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// A new account with so many credits.
    pub fn account(&self, name: &str, credits: &str) -> Account {
        self.ask(&["account", "create", name, "--credits", credits]);
        let token = self.ask(&["token", "create", name]);
        let secret = token["secret"].as_str().expect("a secret").to_owned();
        Account { secret, url: format!("http://{BALANCER}") }
    }

    /// Starts a program of a client.
    pub fn client(&self, command: &mut Command) -> Running {
        self.client.start(command)
    }

    /// Kills an agent; [`Cluster::new_agent`] is another.
    pub fn kill_agent(&mut self, number: usize) {
        self.agents[number].running.signal(Signal::SIGKILL);
    }

    /// Starts an agent again on the machine of the one that was killed.
    pub fn new_agent(&mut self, number: usize) {
        self.agents[number].running = self.agent(&self.agents[number].machine);
    }

    /// Kills a gateway.
    pub fn kill_gateway(&mut self, number: usize) {
        self.gateways[number].running.signal(Signal::SIGKILL);
    }

    /// Starts a gateway again.
    pub fn new_gateway(&mut self, number: usize) {
        self.gateways[number].running = self.gateway(&self.gateways[number].machine);
    }

    /// Asks a gateway to stop, waits for its end, and starts the next in its place.
    pub fn replace_gateway(&mut self, number: usize) {
        let machine = self.gateways[number].machine.clone();
        self.gateways[number].running.signal(Signal::SIGTERM);
        let pid = self.gateways[number].running.pid();
        until("the end of a gateway that was asked to stop", LIMIT, || !fastmap_test_programs::is_alive(pid));
        self.gateways[number].running = self.gateway(&machine);
    }

    /// The NATS server that leads the stream of work.
    pub fn nats_leader(&self) -> usize {
        let mut leader = None;
        until("a leader of the stream of work", LIMIT, || {
            leader = (0..self.nats.len()).find(|number| self.leads(*number));
            leader.is_some()
        });
        leader.expect("it was waited for")
    }

    fn leads(&self, number: usize) -> bool {
        let machine = &self.nats[number].machine;
        let url = format!("http://{}:8222/jsz?accounts=true&streams=true", machine.address);
        let said = machine.inside(|| http(&url)).unwrap_or_default();
        let streams = said["account_details"].as_array().into_iter().flatten();
        let mut streams =
            streams.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
        let name = Value::from(format!("nats{number}"));
        streams.any(|stream| stream["cluster"]["leader"] == name)
    }

    /// Kills a NATS server.
    pub fn kill_nats(&mut self, number: usize) {
        self.nats[number].running.signal(Signal::SIGKILL);
    }

    /// Starts a NATS server again, with what it had on its disk.
    pub fn new_nats(&mut self, number: usize) {
        let machine = self.nats[number].machine.clone();
        self.nats[number].running =
            nats_server(&machine, &self.folder.path().join(format!("nats{number}.conf")));
    }

    /// Cuts the cable of an agent for so long.
    pub fn cut_agent(&self, number: usize, time: Duration) {
        let machine = &self.agents[number].machine;
        machine.cut();
        std::thread::sleep(time);
        machine.mend();
    }

    /// Cuts the cable of a gateway for so long.
    pub fn cut_gateway(&self, number: usize, time: Duration) {
        let machine = &self.gateways[number].machine;
        machine.cut();
        std::thread::sleep(time);
        machine.mend();
    }
}

fn start_nats(network: &mut Network, command: &str, folder: &Path) -> Vec<Node> {
    let machines: Vec<_> = (0..3).map(|_| network.machine()).collect();
    let routes: Vec<_> =
        machines.iter().map(|machine| format!("\"nats://{}:6222\"", machine.address)).collect();
    let permissions = Command::new(command).arg("nats-permissions").output().expect("it can be started");
    let permissions = String::from_utf8(permissions.stdout).expect("text");
    let nodes = machines.into_iter().enumerate().map(|(number, machine)| {
        let (address, routes) = (&machine.address, routes.join(", "));
        let store = folder.join(format!("nats{number}"));
        let text = format!(
            "server_name: nats{number}\nlisten: \"{address}:4222\"\nhttp: \"{address}:8222\"\n\
             jetstream {{ store_dir: \"{}\" }}\n\
             cluster {{ name: fastmap, listen: \"{address}:6222\", routes: [{routes}] }}\n{permissions}",
            store.display()
        );
        let path = folder.join(format!("nats{number}.conf"));
        fs::write(&path, text).expect("room on the disk");
        let running = nats_server(&machine, &path);
        Node { machine, running }
    });
    let nodes: Vec<_> = nodes.collect();
    for node in &nodes {
        let url = format!("http://{}:8222/healthz", node.machine.address);
        until("NATS servers that have found each other", LIMIT, || {
            node.machine.inside(|| http(&url)).is_some_and(|said| said["status"] == "ok")
        });
    }
    nodes
}

fn nats_server(machine: &Machine, config: &Path) -> Running {
    machine.start(Command::new(tool("bin/nats-server")).arg("--config").arg(config).envs(PASSWORDS))
}

/// What is said there, if it is JSON.
fn http(url: &str) -> Option<Value> {
    let mut response = ureq::get(url).call().ok()?;
    serde_json::from_str(&response.body_mut().read_to_string().ok()?).ok()
}
