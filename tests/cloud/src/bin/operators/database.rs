//! Behind: `PostgreSQL` with a standby, and a pooler.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Instant;

use fastmap_test_cloud::{Postgres, Service, tool};
use fastmap_test_programs::{LIMIT, Running, until};
use nix::unistd::{Uid, User};

use crate::front::{SHORT_NAP, all_answers};
use crate::place::{Place, free_port, listens, version};
use crate::table::Row;
use crate::traffic;
use crate::watched::Client;

/// An address that leads to the server that takes writes, and to its standby once that is promoted.
pub(crate) fn failover(place: &Place, rows: &mut Vec<Row>) {
    let [one, two, address] = [free_port(), free_port(), free_port()];
    let primary = Postgres::start(&["--port", &one.to_string()]);
    say(one, "CREATE ROLE fastmap_check LOGIN");
    let _standby = Postgres::start(&["--port", &two.to_string(), "--standby-of", &one.to_string()]);
    let mut haproxy = Command::new(tool("/usr/sbin/haproxy"));
    haproxy.arg("-db").arg("-f").arg(place.deployed("haproxy/postgres.cfg", &[]));
    for (name, port) in [("BIND", address), ("POSTGRES_1", one), ("POSTGRES_2", two)] {
        haproxy.env(format!("FASTMAP_{name}"), format!("127.0.0.1:{port}"));
    }
    let _haproxy = Running::start(&mut haproxy);
    listens(address);
    // Until it has asked them, it takes both for good.
    until("that HAProxy knows the primary", LIMIT, || {
        (0..4).all(|_| asked(address, "SELECT inet_server_port()").is_ok_and(|said| said == one.to_string()))
    });
    let (service, client) = serve(place, &format!("postgres://fastmap@127.0.0.1:{address}/postgres"));
    let piece = format!(
        "PostgreSQL {} with a standby behind HAProxy",
        version(Command::new("psql").arg("--version"))
    );
    let row = |trouble, noticed, back, outcome| Row { piece: piece.clone(), trouble, noticed, back, outcome };
    rows.push(row("none", None, None, traffic::all(place, &client, SHORT_NAP)));
    let mut map = client.watch(600, 50);
    let url = service.url.clone();
    let (met, ()) =
        map.trouble(|| drop(primary), |_, _| not_ready(&url), |()| say(two, "SELECT pg_promote()"));
    map.finish();
    service.ask(&["credits", "audit"]);
    let trouble = "the primary dies, the standby is promoted";
    rows.push(row(trouble, Some(met.noticed), Some(met.back), all_answers()));
}

/// A pooler in session mode, and one in transaction mode.
pub(crate) fn pooler(place: &Place, rows: &mut Vec<Row>) {
    let server = free_port();
    let postgres = Postgres::start(&["--port", &server.to_string()]);
    // A user with a password, whom the pooler asks for it.
    say(server, "ALTER ROLE fastmap PASSWORD 'ofGateways'");
    let users = place.write("userlist.txt", "\"fastmap\" \"ofGateways\"\n").display().to_string();
    let mut asks = pgbouncer();
    let piece = format!("PgBouncer {}", version(asks.arg("--version")));
    let row = |trouble, noticed, back, outcome| Row { piece: piece.clone(), trouble, noticed, back, outcome };
    let start = |port: u16, more: &[(&str, &str)]| {
        let (to, listen) = (format!("port={server}"), format!("listen_port = {port}"));
        let usual = [
            ("port=5432", to.as_str()),
            ("listen_port = 6432", &listen),
            ("/etc/pgbouncer/userlist.txt", &users),
        ];
        let mut command = pgbouncer();
        if Uid::effective().is_root() {
            // It refuses to be root; the server's user is there for certain.
            let socket = postgres.url.rsplit("host=").next().expect("it names the folder of its socket");
            let owner = std::fs::metadata(socket).expect("it is there").uid();
            let owner = User::from_uid(Uid::from_raw(owner)).ok().flatten().expect("it has a name");
            command.args(["-u", &owner.name]);
        }
        command.arg("-q").arg(place.deployed("pgbouncer/pgbouncer.ini", &[&usual, more].concat()));
        let running = Running::start(&mut command);
        listens(port);
        running
    };
    let database = |port: u16| format!("postgres://fastmap:ofGateways@127.0.0.1:{port}/postgres");
    let port = free_port();
    let pooler = start(port, &[]);
    let (service, client) = serve(place, &database(port));
    rows.push(row("none (`pool_mode = session`)", None, None, traffic::all(place, &client, SHORT_NAP)));
    let mut map = client.watch(600, 50);
    let url = service.url.clone();
    let (met, _pooler) = map.trouble(|| drop(pooler), |_, _| not_ready(&url), |()| start(port, &[]));
    map.finish();
    service.ask(&["credits", "audit"]);
    rows.push(row("it is away, and comes again", Some(met.noticed), Some(met.back), all_answers()));

    let port = free_port();
    let _transaction = start(port, &[("pool_mode = session", "pool_mode = transaction")]);
    let begun = Instant::now();
    let mut serve = place.fastmap(&["serve", "--insecure-no-sandbox", "--listen", "127.0.0.1:0", "--data"]);
    let output = serve.arg(place.path("refused")).env("FASTMAP_DATABASE", database(port)).output();
    let output = output.expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("a pooler in transaction mode"), "{said}");
    let by = "`fastmap serve`, which names `pool_mode = session`".to_owned();
    rows.push(row(
        "`pool_mode = transaction`",
        Some((begun.elapsed(), by)),
        None,
        "it refuses to start".to_owned(),
    ));
}

fn serve(place: &Place, database: &str) -> (Service, Client) {
    let service = place.service(&["--long-poll", "2"], &[("FASTMAP_DATABASE", database)]);
    let client = Client { account: service.account("a", "1000"), certificate: None };
    (service, client)
}

/// What a gateway says while it would take no batch.
pub(crate) fn not_ready(url: &str) -> Option<String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let answer = agent.get(format!("{url}/readyz")).call().ok()?;
    (answer.status() == 503).then(|| "`/readyz`".to_owned())
}

/// Says SQL to the server at that port.
fn say(port: u16, sql: &str) {
    asked(port, sql).unwrap_or_else(|said| panic!("{sql}: {said}"));
}

fn asked(port: u16, sql: &str) -> Result<String, String> {
    let mut psql = Command::new("psql");
    psql.args([
        "--no-psqlrc",
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-U",
        "fastmap",
        "-Atc",
        sql,
        "postgres",
    ]);
    let output = psql.output().expect("psql is there (scripts/setup postgres)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn pgbouncer() -> Command {
    let system = std::path::Path::new("/usr/sbin/pgbouncer");
    let program = if system.exists() { system.to_owned() } else { tool("pgbouncer/pgbouncer") };
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", program.parent().expect("a folder"));
    command
}
