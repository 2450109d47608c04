//! The service's folder: closed to other users, and never with another key than its database's.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::client::results;
use crate::server::{Server, fastmap};

/// All files and folders of the service, itself among them.
fn all(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).expect("it is ours").flatten() {
        match entry.file_type().expect("it is there").is_dir() {
            true => found.extend(all(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_folder_that_was_open_is_closed_with_all_that_the_service_keeps_in_it() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 0, &["b100000"]), 1);
    server.kill();
    for path in all(server.data()) {
        // An open key is refused, and stays as it is.
        if path.ends_with("service.key") {
            continue;
        }
        let mode =
            fs::metadata(&path).expect("it is there").mode() | if path.is_dir() { 0o055 } else { 0o044 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    }
    server.restart();
    let mode = |path: &PathBuf| fs::metadata(path).expect("it is there").mode() & 0o077;
    let folder = server.data().to_owned();
    // The folder is what keeps others out of everything; the database is closed for itself, too.
    let mut closed = vec![folder.clone()];
    closed.extend(["answers", "uploads", "executables", "contexts"].map(|name| folder.join(name)));
    if server.database().is_none() {
        closed.extend(
            ["fastmap.sqlite", "fastmap.sqlite-wal", "fastmap.sqlite-shm"].map(|name| folder.join(name)),
        );
    }
    let open: Vec<&PathBuf> = closed.iter().filter(|path| mode(path) != 0).collect();
    assert!(open.is_empty(), "{open:?}");
    // What is made from now on is born closed, but for programs, which workers' users execute.
    let run = client.run();
    results(&client.batch(&run, 0, &["b100000"]), 1);
    for path in all(&folder.join("answers").join(&run)) {
        assert_eq!(mode(&path), 0, "{path:?}");
    }
}

#[test]
fn a_key_that_was_lost_is_asked_for_and_not_replaced() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    server.kill();
    let (key, kept) = (server.data().join("service.key"), server.data().join("kept"));
    fs::rename(&key, &kept).expect("it is ours");
    let mut serve = fastmap();
    serve.args(["serve", "--insecure-no-sandbox", "--listen", "127.0.0.1:0", "--data"]).arg(server.data());
    serve.envs(server.database().map(|url| ("FASTMAP_DATABASE", url)));
    for output in [serve.output().expect("it can be started"), server.command(&["token", "create", "a"])] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("service.key is not there"), "{said}");
        assert!(!key.exists(), "it was replaced");
    }
    fs::rename(&kept, &key).expect("it is ours");
    server.restart();
    client.balance();
}
