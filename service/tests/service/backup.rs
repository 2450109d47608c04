//! Copies of the database, made while the service works, and services that go on from them.

use std::path::PathBuf;
use std::process::{Command, Output};

use fastmap_backends::cloud::RunInfo;

use crate::client::{Client, results};
use crate::server::{Server, postgres};

/// Makes a copy while batches are answered, and goes on with it as if what came after had not been.
fn goes_on(server: &Server, restore: impl FnOnce(&Server) -> Server) {
    let client = server.tenant("a", "1000");
    let run = client.run();
    for seq in 0..10 {
        results(&client.batch(&run, seq, &["s5"]), 1);
    }
    let restored = std::thread::scope(|scope| {
        let (client, run) = (&client, &run);
        let load = scope.spawn(move || {
            for seq in 10..60 {
                results(&client.batch(run, seq, &["s5"]), 1);
            }
        });
        let restored = restore(server);
        load.join().expect("no panic");
        restored
    });
    let client = Client { url: restored.url.clone(), ..client };
    let info = || client.call("GET", &format!("/runs/{run}"), b"").json::<RunInfo>(200);
    let (before, balance) = (info(), client.balance());
    assert!((10..=60).contains(&before.batches), "{before:?}");
    assert_eq!((before.held, balance), (0, 1_000_000_000 - before.spent), "{before:?}");
    // Programs are not in it: they come again.
    let next = client.run();
    results(&client.batch(&next, 0, &["s5"]), 1);
    assert_eq!(client.call("POST", &format!("/runs/{run}/done"), b"").status, 200);
    assert_eq!(info().batches, before.batches);
    restored.audit();
}

#[test]
fn a_copy_of_sqlite_is_whole_and_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    if std::env::var_os("FASTMAP_TEST_POSTGRES").is_some() {
        return;
    }
    let server = Server::start(&[]);
    goes_on(&server, |server| {
        let file = server.data().join("copy");
        let name = file.to_str().expect("text");
        server.json(&["backup", name]);
        let mode = std::fs::metadata(&file).expect("a copy").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = server.command(&["backup", name]);
        assert!(!again.status.success(), "a copy is not written over another");
        server.restored(|data| {
            std::fs::rename(&file, data.join("fastmap.sqlite")).expect("one disk");
            None
        })
    });
}

fn postgres_tool(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let there = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    Command::new(there.unwrap_or_else(|| PathBuf::from(name)))
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("the tool can be started");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_dump_of_postgres_is_a_service() {
    let server = Server::start_on_postgres(&[]);
    let url = server.database().expect("it is a server's").to_owned();
    let schema = url.rsplit('=').next().expect("it names its client").to_owned();
    let refused = server.command(&["backup", "x"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("pg_dump"), "{refused:?}");
    goes_on(&server, |server| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("dump");
        let plain = url.split("&options").next().expect("it has a begin");
        let dump = ["--format=custom", "--schema", &schema, "--file"];
        succeeds(postgres_tool("pg_dump").args(dump).arg(&file).arg(plain));
        postgres::blocking(postgres::say(&url, format!("CREATE DATABASE {schema}_again")));
        let other = |url: &str| url.replacen("/postgres?", &format!("/{schema}_again?"), 1);
        succeeds(
            postgres_tool("pg_restore").arg("--exit-on-error").arg("--dbname").arg(other(plain)).arg(&file),
        );
        server.restored(|_| Some(other(&url)))
    });
}
