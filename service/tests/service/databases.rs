//! Databases that are not what they should be: servers that take no writes for a while, poolers in front,
//! nobody there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::client::{batch, results};
use crate::server::{Server, fastmap, free_port, postgres, until};

/// A user of the tests' server with a schema of its own, and the address of a database as that user.
fn user(name: &str) -> (String, String) {
    let database = postgres::blocking_database();
    let schema = database.rsplit('=').next().expect("it names its schema");
    say(
        &database,
        &format!("CREATE ROLE {name} LOGIN SUPERUSER; ALTER ROLE {name} SET search_path = {schema}"),
    );
    let address =
        database.split("&options").next().expect("text").replace("//fastmap@", &format!("//{name}@"));
    (database, address)
}

fn say(database: &str, sql: &str) {
    postgres::blocking(postgres::say(database, sql.to_owned()));
}

/// What `fastmap serve` says when it refuses that database.
fn refused(database: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let output = fastmap()
        .args(["serve", "--insecure-no-sandbox", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .env("FASTMAP_DATABASE", database)
        .output()
        .expect("the command can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_gateway_leaves_a_server_that_takes_no_writes_as_soon_as_its_address_leads_to_one_that_does() {
    let (database, address) = user("failover");
    let server = Server::start_at(&address, &[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 1, &["eone"]), 1);
    let ready = || {
        let answer = client.agent.get(format!("{}/readyz", server.url)).call().expect("an answer");
        answer.status().as_u16()
    };
    assert_eq!(ready(), 200);
    // As a balancer does it: what was connected is cut off, and the address leads to a standby for a while.
    // Connections that are made then stay read-only when it leads to the primary again.
    let cut_off = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'failover'";
    say(&database, "ALTER ROLE failover SET default_transaction_read_only = on");
    say(&database, cut_off);
    let is_true = |what: &str| postgres::blocking(postgres::is_true(&database, what.to_owned()));
    until("new connections", || {
        let there = is_true("SELECT count(*) > 2 FROM pg_stat_activity WHERE usename = 'failover'");
        (there && ready() == 503).then_some(())
    });
    for _ in 0..5 {
        assert_eq!(ready(), 503);
    }
    let problem = client.call("PUT", &format!("/runs/{run}/batches/2"), &batch(&["etwo"])).problem("storage");
    assert!(problem.retry_after.is_some(), "{problem}");
    say(&database, "ALTER ROLE failover RESET default_transaction_read_only");
    until("that it is ready", || (ready() == 200).then_some(()));
    assert_eq!(results(&client.batch(&run, 2, &["etwo"]), 1), [b"two"]);
    // It says anew that it lives, where it can be seen.
    until("its lock", || {
        is_true(
            "SELECT count(*) = 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
             WHERE locktype = 'advisory' AND usename = 'failover'",
        )
        .then_some(())
    });
    server.audit();
}

#[test]
fn a_database_that_is_not_there_is_told_once_and_by_its_reason() {
    let port = free_port();
    let said = refused(&format!("postgres://fastmap@127.0.0.1:{port}/postgres"));
    assert_eq!(said.matches("refused").count(), 1, "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")) && !said.contains("timed out"), "{said}");
    // An unknown database: the server's words, once.
    let (_, address) = user("astray");
    let said = refused(&address.replace("/postgres?", "/nowhere?"));
    assert_eq!(said.matches("does not exist").count(), 1, "{said}");
}

/// A `PgBouncer` before the tests' server, ended with the test.
struct Pooler {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    /// As that user of the server, whoever comes.
    fn start(mode: &str, user: &str, address: &str) -> Pooler {
        let socket = address.rsplit("host=").next().expect("it names the folder of its socket");
        let folder = tempfile::tempdir().expect("a folder");
        // As root it becomes another user before it reads this.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is there");
        let (port, config) = (free_port(), folder.path().join("pgbouncer.ini"));
        let text = format!(
            "[databases]\n* = host={socket} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             ignore_startup_parameters = extra_float_digits,options\n"
        );
        fs::write(&config, text).expect("room on the disk");
        let (program, libraries) = pgbouncer();
        let mut command = Command::new(program);
        if nix::unistd::Uid::effective().is_root() {
            let owner = fs::metadata(socket).map(|found| std::os::unix::fs::MetadataExt::uid(&found));
            let owner = nix::unistd::Uid::from_raw(owner.expect("it is there"));
            let owner = nix::unistd::User::from_uid(owner).ok().flatten().expect("it has a name");
            command.args(["-u", &owner.name]);
        }
        command.env("LD_LIBRARY_PATH", libraries);
        let process = command.arg("-q").arg(&config).stderr(Stdio::null()).spawn();
        let process = process.expect("no pgbouncer (scripts/setup test)");
        until("the pooler", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Pooler { process, port, _folder: folder }
    }

    fn address(&self) -> String {
        format!("postgres://anybody@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// Where scripts/setup has put it, with its libraries: beside the tests' own folder; or the system's.
fn pgbouncer() -> (PathBuf, PathBuf) {
    let this = std::env::current_exe().expect("a path");
    let in_tools = this.ancestors().map(|folder| folder.join("tools/pgbouncer"));
    let found = in_tools.map(|tools| (tools.join("pgbouncer"), tools)).find(|(program, _)| program.exists());
    found.unwrap_or_else(|| {
        let system = Path::new("/usr/sbin/pgbouncer");
        let program = if system.exists() { system } else { Path::new("pgbouncer") };
        (program.to_owned(), PathBuf::new())
    })
}

#[test]
fn a_pooler_in_transaction_mode_is_refused_and_one_in_session_mode_serves() {
    let (_, address) = user("pooled");
    let pooler = Pooler::start("transaction", "pooled", &address);
    let said = refused(&pooler.address());
    assert!(said.contains("a pooler in transaction mode") && said.contains("pool_mode = session"), "{said}");
    drop(pooler);
    let pooler = Pooler::start("session", "pooled", &address);
    let server = Server::start_at(&pooler.address(), &[]);
    let client = server.tenant("a", "1000");
    assert_eq!(results(&client.batch(&client.run(), 1, &["eone"]), 1), [b"one"]);
    server.audit();
}
