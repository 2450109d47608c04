//! What all pieces need: a folder, ports, a certificate, programs, and the configurations of deploy/.

use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastmap_test_cloud::Service;
use fastmap_test_programs::{LIMIT, until};
use tempfile::TempDir;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

/// A place to try a piece in.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    service: String,
    /// What is tried.
    pub(crate) name: String,
    /// Whether what takes long is left out.
    pub(crate) short: bool,
}

impl Place {
    pub(crate) fn new(name: &str, service: &str, short: bool) -> Place {
        let folder = TempDir::new().expect("a folder");
        // Servers that are started by root become other users.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is our own");
        Place { folder, name: name.to_owned(), service: service.to_owned(), short }
    }

    /// A path of its own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program that maps, built beside this one.
    pub(crate) fn host() -> PathBuf {
        std::env::current_exe().expect("a path").with_file_name("cloud-host")
    }

    /// A command of `fastmap`, with nothing of it in its environment.
    pub(crate) fn fastmap(&self, arguments: &[&str]) -> Command {
        let mut command = fastmap_test_programs::program(&self.service);
        command.args(arguments).env("FASTMAP_LOG", "warn");
        command
    }

    /// The same, with its log in that file.
    pub(crate) fn logging(&self, log: &Path, arguments: &[&str]) -> Command {
        let mut command = fastmap_test_programs::program("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>>\"$LOG\"", &self.service]).args(arguments);
        command.env("LOG", log).env("FASTMAP_LOG", "warn");
        command
    }

    /// A service.
    pub(crate) fn service(&self, options: &[&str], environment: &[(&str, &str)]) -> Service {
        Service::start_with(&self.service, options, environment)
    }

    /// A file of deploy/ as it is there but for these words, each of which must be in it; it is put beside
    /// the other files.
    pub(crate) fn deployed(&self, file: &str, changes: &[(&str, &str)]) -> PathBuf {
        let path = Path::new(DEPLOY).join(file);
        let mut text = fs::read_to_string(&path).expect("it is in deploy/");
        for (word, other) in changes {
            assert!(text.contains(word), "{file} has no {word:?}");
            text = text.replace(word, other);
        }
        self.write(path.file_name().and_then(|name| name.to_str()).expect("a name"), &text)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("room on the disk");
        path
    }

    /// The files of a certificate for this machine and of its key, and one of both.
    pub(crate) fn certificate(&self) -> Certificate {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Certificate {
            certificate: self.write("tls.pem", &certificate),
            key: self.write("tls.key", &key),
            both: self.write("tls.both", &[certificate, key].concat()),
        }
    }
}

/// The files of a certificate.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) both: PathBuf,
}

/// A port of loopback that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Waits until connections are taken there.
pub(crate) fn listens(port: u16) {
    let what = format!("a server at port {port}");
    until(&what, LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// The first number with dots in what a program says of its version.
pub(crate) fn version(command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?} (scripts/setup operators): {error}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut words = said.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.find(|word| word.contains('.') && word.len() > 2).expect("a version").to_owned()
}
