//! Behind: NATS servers, with agents at a leaf node.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use fastmap_test_cloud::tool;
use fastmap_test_programs::Running;

use crate::database::not_ready;
use crate::front::{SHORT_NAP, all_answers};
use crate::place::{Place, free_port, listens, version};
use crate::table::Row;
use crate::traffic;
use crate::watched::Client;

const PASSWORDS: [(&str, &str); 3] = [
    ("FASTMAP_NATS_GATEWAY", "ofGateways"),
    ("FASTMAP_NATS_AGENT", "ofAgents"),
    ("FASTMAP_NATS_LEAF", "ofLeafs"),
];
/// Bytes that the hub's store has; the configuration in deploy/ has room for real work.
const STORE: &str = "max_file_store: 200MB";

/// A hub and a leaf node of that version.
struct Servers<'p> {
    place: &'p Place,
    server: String,
    hub: u16,
    leafs: u16,
    leaf: u16,
}

impl Servers<'_> {
    fn start(&self, config: &str, port: u16, changes: &[(&str, &str)]) -> Running {
        let mut command = Command::new(tool(&self.server));
        command.arg("--config").arg(self.place.deployed(&format!("nats/{config}"), changes)).envs(PASSWORDS);
        let store = self.place.path(config.trim_end_matches(".conf"));
        let quoted = |text: &str| format!("\"{text}\"");
        command.env("FASTMAP_NATS_LISTEN", quoted(&format!("127.0.0.1:{port}")));
        command.env("FASTMAP_NATS_LEAFS", quoted(&format!("127.0.0.1:{}", self.leafs)));
        command
            .env("FASTMAP_NATS_HUB", quoted(&format!("nats-leaf://leaf:ofLeafs@127.0.0.1:{}", self.leafs)));
        command.env("FASTMAP_NATS_STORE", quoted(&store.display().to_string()));
        let running = Running::start(&mut command);
        listens(port);
        running
    }

    fn hub(&self, changes: &[(&str, &str)]) -> Running {
        let usual = [("max_file_store: 10GB", STORE)];
        self.start("hub.conf", self.hub, &[&usual, changes].concat())
    }

    fn leaf(&self) -> Running {
        self.start("leaf.conf", self.leaf, &[])
    }

    fn agent(&self, name: &str, port: u16) -> Running {
        let nats = format!("nats://127.0.0.1:{port}");
        let command = ["agent", "--insecure-no-sandbox", "--workers", "2", "--name", name];
        let mut agent = self.place.logging(&self.log(name), &command);
        agent.args(["--nats", &nats, "--nats-user", "agent", "--nats-domain", "hub", "--data"]);
        agent.arg(self.place.path(name)).env("FASTMAP_NATS_PASSWORD", "ofAgents");
        let mut running = Running::start(&mut agent);
        running.line("works as ");
        running
    }

    fn log(&self, agent: &str) -> PathBuf {
        self.place.path(&format!("{agent}.log"))
    }

    /// A warning in an agent's log, which has no other before.
    fn agent_warns(&self, name: &str) -> Option<String> {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        log.contains("WARN").then(|| "the agent's log".to_owned())
    }

    /// Does something to the hub as another program of the service's account.
    fn on_hub(&self, what: impl AsyncFnOnce(jetstream::Context)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let options =
                async_nats::ConnectOptions::with_user_and_password("gateway".into(), "ofGateways".into());
            let client =
                options.connect(format!("nats://127.0.0.1:{}", self.hub)).await.expect("a connection");
            what(jetstream::new(client)).await;
        });
    }

    fn fill(&self) {
        self.on_hub(async |jetstream| {
            let other = Config { name: "other".to_owned(), ..Config::default() };
            jetstream.create_stream(other).await.expect("a stream");
            for size in [1 << 19, 1 << 12, 16] {
                let put = async || {
                    let sent = jetstream.publish("other", vec![7; size].into()).await.expect("it is sent");
                    sent.await
                };
                while put().await.is_ok() {}
            }
        });
    }

    fn make_room(&self) {
        self.on_hub(async |jetstream| {
            jetstream.delete_stream("other").await.expect("it is there");
        });
    }
}

/// `folder`: where the server is, below what scripts/setup makes.
pub(crate) fn cell(place: &Place, folder: &str, rows: &mut Vec<Row>) {
    let server = format!("{folder}/nats-server");
    let piece = format!("NATS {} with a leaf", version(Command::new(tool(&server)).arg("--version")));
    let servers = Servers { place, server, hub: free_port(), leafs: free_port(), leaf: free_port() };
    let row = |trouble, noticed, back, outcome| Row { piece: piece.clone(), trouble, noticed, back, outcome };
    let printed = place.fastmap(&["nats-permissions", "--nats-domain", "hub"]).output();
    place.write("permissions.conf", &String::from_utf8_lossy(&printed.expect("it can be started").stdout));

    let hub = servers.hub(&[]);
    let nats = format!("nats://127.0.0.1:{}", servers.hub);
    let options = ["--long-poll", "2", "--nats", &nats, "--nats-user", "gateway", "--nats-domain", "hub"];
    let service = place.service(&options, &[("FASTMAP_NATS_PASSWORD", "ofGateways")]);
    let client = Client { account: service.account("a", "1000"), certificate: None };
    let leaf = servers.leaf();
    let agent = servers.agent("leaf", servers.leaf);
    rows.push(row("none (the agent is at the leaf)", None, None, traffic::all(place, &client, SHORT_NAP)));

    let mut map = client.watch(1200, 50);
    let ready = |_: &_, _| not_ready(&service.url);
    let (met, leaf) = map.trouble(
        || {
            fs::write(servers.log("leaf"), "").expect("room on the disk");
            drop(leaf);
        },
        |_, _| servers.agent_warns("leaf"),
        |()| servers.leaf(),
    );
    rows.push(row("the leaf is away, and comes again", Some(met.noticed), Some(met.back), all_answers()));
    let (met, hub) = map.trouble(|| drop(hub), ready, |()| servers.hub(&[]));
    rows.push(row("the hub is away, and comes again", Some(met.noticed), Some(met.back), all_answers()));
    let (met, ()) = map.trouble(|| servers.fill(), ready, |()| servers.make_room());
    rows.push(row("its store is full", Some(met.noticed), Some(met.back), all_answers()));
    map.finish();

    drop((hub, agent, leaf));
    let _hub = servers.hub(&[("max_payload: 1MB", "max_payload: 64KB")]);
    let _agent = servers.agent("hub", servers.hub);
    let worked = traffic::all(place, &client, SHORT_NAP);
    rows.push(row("`max_payload` is lowered to 64 KB", None, None, worked));
    service.ask(&["credits", "audit"]);
}
