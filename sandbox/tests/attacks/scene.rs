//! What attacks are aimed at: files, listening sockets, and a process that is not the attacker. Built by the test,
//! described to its children by the environment.

use std::env;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

/// Names of the variables.
const FOLDER: &str = "SCENE_FOLDER";
const TCP: &str = "SCENE_TCP";
const UDP: &str = "SCENE_UDP";
const HOST: &str = "SCENE_HOST";
const WORD: &str = "SCENE_WORD";

/// The targets, as an attacker knows them.
pub(crate) struct Scene {
    pub(crate) folder: PathBuf,
    pub(crate) tcp: String,
    pub(crate) udp: String,
    /// A process that is not the attacker: its parent.
    pub(crate) host: i32,
    /// Where a word of that process's memory lies.
    pub(crate) word: usize,
}

/// The targets, alive.
pub(crate) struct Built {
    folder: tempfile::TempDir,
    /// In the machine's own `/tmp`.
    _file: tempfile::TempPath,
    _listening: (TcpListener, UdpSocket, UnixListener, UnixListener),
}

/// In the memory of the host.
static SECRET: u64 = 0x5ec2_e75e_c2e7;

impl Scene {
    /// Builds it; the variables describe it to the attackers.
    pub(crate) fn build() -> (Built, Vec<(&'static str, String)>) {
        // Not where a confined process finds a folder of its own.
        let private =
            |folder: &String| ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|own| folder.starts_with(own));
        let home = env::var("HOME").unwrap_or_else(|_| "/".to_owned());
        let folders = [env!("CARGO_TARGET_TMPDIR").to_owned(), home];
        let outside = folders.iter().find(|folder| !private(folder)).expect("a folder that is not temporary");
        let folder = tempfile::tempdir_in(outside).expect("a folder");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let unix = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let hidden = SocketAddr::from_abstract_name(format!("fastmap-scene-{}", std::process::id()))
            .and_then(|name| UnixListener::bind_addr(&name))
            .expect("an abstract socket");
        let variables = vec![
            (FOLDER, folder.path().display().to_string()),
            (TCP, tcp.local_addr().expect("it has one").to_string()),
            (UDP, udp.local_addr().expect("it has one").to_string()),
            (HOST, std::process::id().to_string()),
            (WORD, (&raw const SECRET as usize).to_string()),
        ];
        let file = PathBuf::from(format!("/tmp/fastmap-scene-{}", std::process::id()));
        fs::write(&file, "another's").expect("it can be written to");
        let file = tempfile::TempPath::try_from_path(file).expect("an absolute path");
        (Built { folder, _file: file, _listening: (tcp, udp, unix, hidden) }, variables)
    }

    /// As the variables describe it.
    pub(crate) fn from_environment() -> Scene {
        let text = |name: &str| env::var(name).expect("the test has set it");
        Scene {
            folder: text(FOLDER).into(),
            tcp: text(TCP),
            udp: text(UDP),
            host: text(HOST).parse().expect("a number"),
            word: text(WORD).parse().expect("a number"),
        }
    }

    /// A path in the folder, for a system call.
    pub(crate) fn path(&self, name: &str) -> std::ffi::CString {
        std::ffi::CString::new(self.folder.join(name).into_os_string().into_encoded_bytes())
            .expect("no zero byte")
    }
}

impl Built {
    /// Puts back what an attack may have taken away, and takes away what it made.
    pub(crate) fn furnish(&self) {
        let folder = self.folder.path();
        for entry in fs::read_dir(folder).expect("it is there").flatten() {
            let kind = entry.file_type().expect("it has one");
            if kind.is_dir() {
                fs::remove_dir_all(entry.path()).expect("it can be removed");
            } else if entry.file_name() != "socket" {
                fs::remove_file(entry.path()).expect("it can be removed");
            }
        }
        fs::write(folder.join("file"), "secret").expect("it can be written");
        fs::create_dir(folder.join("empty")).expect("it can be made");
    }
}
