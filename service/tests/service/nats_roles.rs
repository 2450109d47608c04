//! What each role may do on a NATS server whose configuration is what `fastmap nats-permissions` prints.

use std::sync::{Arc, Mutex};

use async_nats::{Client, ConnectOptions, Event};
use tokio::runtime::Runtime;

use crate::client::results;
use crate::nats::Nats;
use crate::server::{Server, fastmap, plain_command, until};

const PASSWORDS: [(&str, &str); 3] =
    [("FASTMAP_NATS_GATEWAY", "gate-way"), ("FASTMAP_NATS_ONE", "one-one"), ("FASTMAP_NATS_TWO", "two-two")];

const DOMAIN: [&str; 2] = ["--nats-domain", "hub"];

fn nats() -> Nats {
    let output = plain_command(&["nats-permissions", "--agent", "one", "--agent", "two"]);
    assert!(output.status.success());
    Nats::configured(&String::from_utf8(output.stdout).expect("text"), &PASSWORDS)
}

/// A server with a `JetStream` domain, which is named to gateways and agents as well.
fn nats_of_a_domain() -> Nats {
    let output =
        plain_command(&["nats-permissions", "--agent", "one", "--agent", "two", DOMAIN[0], DOMAIN[1]]);
    assert!(output.status.success());
    Nats::with_jetstream("domain: hub", &String::from_utf8(output.stdout).expect("text"), &PASSWORDS)
}

fn gateway(nats: &Nats, more: &[&str]) -> Server {
    let password = std::path::PathBuf::from("gate-way");
    let url = nats.url();
    let options = [&["--nats", &url, "--nats-user", "gateway"], more].concat();
    Server::start_with(&options, &[("FASTMAP_NATS_PASSWORD", password)])
}

fn agent(nats: &Nats, more: &[&str]) -> (std::process::Child, tempfile::TempDir) {
    let data = tempfile::tempdir().expect("a folder");
    let process = fastmap()
        .args([
            "agent",
            "--insecure-no-sandbox",
            "--workers",
            "2",
            "--nats",
            &nats.url(),
            "--nats-user",
            "one",
        ])
        .args(more)
        .arg("--data")
        .arg(data.path())
        .env("FASTMAP_NATS_PASSWORD", "one-one")
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("an agent can be started");
    (process, data)
}

/// A connection with an agent's credentials, and what the server has refused it.
async fn connect(nats: &Nats) -> (Client, Arc<Mutex<Vec<String>>>) {
    let refused = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&refused);
    let client = ConnectOptions::with_user_and_password("one".to_owned(), "one-one".to_owned())
        .custom_inbox_prefix("_INBOX_one")
        .event_callback(move |event| {
            let told = Arc::clone(&told);
            async move {
                if let Event::ServerError(error) = event {
                    told.lock().expect("no panic").push(error.to_string());
                }
            }
        })
        .connect(nats.url())
        .await
        .expect("agents are let in");
    (client, refused)
}

#[test]
fn both_roles_may_do_what_they_need() {
    roles_do_what_they_need(&nats(), &[]);
}

#[test]
fn both_roles_may_do_it_at_the_servers_of_a_domain() {
    roles_do_what_they_need(&nats_of_a_domain(), &DOMAIN);
}

fn roles_do_what_they_need(nats: &Nats, more: &[&str]) {
    let server = gateway(nats, more);
    let client = server.tenant("a", "1000");
    let (mut process, _data) = agent(nats, more);
    let run = client.run();
    assert_eq!(results(&client.batch(&run, 1, &["ehere", "p3"]), 2)[0], b"here");
    let large = "x".repeat(1_500_000);
    assert_eq!(results(&client.batch(&run, 2, &[&format!("c{large}"), "b900000"]), 2)[1].len(), 900_000);
    until("what its workers print", || {
        let page: fastmap_backends::cloud::LogPage =
            client.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
        (page.lines.len() == 3).then_some(())
    });
    process.kill().expect("it runs");
    process.wait().expect("it is a child");
}

#[test]
fn an_agent_can_neither_submit_work_nor_be_a_gateway_nor_see_what_it_was_not_given() {
    let nats = nats();
    let server = gateway(&nats, &[]);
    let runtime = Runtime::new().expect("a runtime");
    let (client, refused) = runtime.block_on(connect(&nats));
    let publish = |subject: &str| {
        runtime.block_on(client.publish(subject.to_owned(), "{}".into())).expect("it is sent");
    };
    let is_refused = |subject: &str| {
        let quoted = format!("\"{subject}\"");
        until(&format!("the refusal of {subject}"), || {
            refused.lock().expect("no panic").iter().any(|error| error.contains(&quoted)).then_some(())
        });
    };
    let work = [
        // To put work in, or take it out of turn.
        "fastmap.work.1.run.gateway.1",
        "$JS.API.STREAM.PURGE.fastmap_work",
        "$JS.API.STREAM.DELETE.fastmap_work",
        "$JS.API.STREAM.MSG.DELETE.fastmap_work",
        "$JS.API.CONSUMER.CREATE.fastmap_work.mine",
        "$JS.API.CONSUMER.DURABLE.CREATE.fastmap_work.mine",
        "$JS.API.CONSUMER.DELETE.fastmap_work.tenant_1",
        // To speak as a gateway.
        "fastmap.ended",
        "fastmap.revoked",
        "fastmap.tenants",
        "_INBOX_two.answer",
        "$KV.fastmap_agents.two.name",
        // To list what there is.
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.INFO.fastmap_work",
        "$JS.API.STREAM.INFO.OBJ_fastmap_uploads",
        "$JS.API.CONSUMER.NAMES.fastmap_work",
        "$JS.API.CONSUMER.LIST.fastmap_work",
        // To read what no lease of its own names.
        "$JS.API.STREAM.MSG.GET.fastmap_work",
        "$JS.API.STREAM.MSG.GET.OBJ_fastmap_uploads",
        "$JS.API.DIRECT.GET.OBJ_fastmap_uploads",
        "$JS.API.DIRECT.GET.OBJ_fastmap_uploads.$O.fastmap_uploads.M.name",
        "$JS.API.DIRECT.GET.KV_fastmap_agents.$KV.fastmap_agents.two.name",
        "$JS.API.CONSUMER.CREATE.OBJ_fastmap_uploads.mine.$O.fastmap_uploads.C.name",
        "$JS.API.CONSUMER.MSG.NEXT.OBJ_fastmap_uploads.any",
    ];
    for subject in work {
        publish(subject);
        is_refused(subject);
    }
    for subject in [
        "fastmap.gateway.>",
        "fastmap.work.>",
        "fastmap.join",
        "fastmap.lines.>",
        "_INBOX_gateway.>",
        "_INBOX_two.>",
        "_INBOX.>",
        ">",
    ] {
        let _silent = runtime.block_on(client.subscribe(subject)).expect("it is sent");
        is_refused(subject);
    }
    // Asked for what nobody has told it of, a gateway knows nothing; it is asked by a name that must be known.
    let before = refused.lock().expect("no panic").len();
    runtime.block_on(async {
        let answer = client.request("fastmap.gateway.unknown.name", "g".into()).await;
        assert!(answer.is_err(), "{answer:?}");
        client.publish("fastmap.join", "".into()).await.expect("it is sent");
        client.publish("$KV.fastmap_agents.one.name", "{}".into()).await.expect("it is sent");
        client.flush().await.expect("it is there");
        let _allowed = client.subscribe("fastmap.tenants").await.expect("it is sent");
        client.flush().await.expect("it is there");
    });
    assert_eq!(refused.lock().expect("no panic").len(), before, "what an agent needs is not refused");
    drop(server);
}
