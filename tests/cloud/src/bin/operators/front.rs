//! In front: nginx, Caddy, `HAProxy`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use fastmap_test_cloud::{Account, Postgres, Service, tool};
use fastmap_test_programs::{LIMIT, Report, Running, until};

use crate::place::{Certificate, Place, free_port, listens, version};
use crate::table::Row;
use crate::traffic;
use crate::watched::{Client, Watched};

/// Milliseconds of an item, which is longer than a request waits for its answer.
const NAP: u64 = 24_000;
/// The same where a request waits for two seconds, or where that is not tried.
pub(crate) const SHORT_NAP: u64 = 6_000;
/// The same with a browser, whose pages take a while on a busy machine.
const BROWSED_NAP: u64 = 15_000;
/// A map that may not go on ends within this.
const FATAL: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Nginx,
    Caddy,
    Haproxy,
}

/// A proxy's port and what it stands before.
struct Ends {
    port: u16,
    more_ports: [u16; 2],
    certificate: Certificate,
    gateways: Vec<String>,
}

impl Front {
    fn program(self) -> Command {
        Command::new(match self {
            Front::Nginx => tool("nginx/nginx"),
            Front::Caddy => tool("caddy/caddy"),
            Front::Haproxy => tool("/usr/sbin/haproxy"),
        })
    }

    fn piece(self) -> String {
        let (name, ask) = match self {
            Front::Nginx => ("nginx", "-v"),
            Front::Caddy => ("Caddy", "version"),
            Front::Haproxy => ("HAProxy", "-v"),
        };
        format!("{name} {}", version(self.program().arg(ask)))
    }

    /// Starts it with its configuration in deploy/; `changes` are of nginx's.
    fn start(self, place: &Place, ends: &Ends, changes: &[(&str, &str)]) -> Running {
        let mut command = self.program();
        match self {
            Front::Nginx => command.args(["-e", "stderr", "-c"]).arg(nginx(place, ends, changes)),
            Front::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(place.deployed("caddy/Caddyfile", &[]))
                .env("FASTMAP_SITE", format!("localhost:{}", ends.port))
                .env("FASTMAP_GATEWAYS", ends.gateways.join(" "))
                .env("FASTMAP_HTTP_PORT", ends.more_ports[0].to_string())
                .env("FASTMAP_CADDY_ADMIN", format!("localhost:{}", ends.more_ports[1]))
                .env("XDG_DATA_HOME", place.path("data"))
                .env("XDG_CONFIG_HOME", place.path("data")),
            Front::Haproxy => command
                .arg("-db")
                .arg("-f")
                .arg(place.deployed("haproxy/haproxy.cfg", &[]))
                .env(
                    "FASTMAP_BIND",
                    format!("127.0.0.1:{} ssl crt {}", ends.port, ends.certificate.both.display()),
                )
                .env("FASTMAP_GATEWAY_1", &ends.gateways[0])
                .env("FASTMAP_GATEWAY_2", &ends.gateways[1]),
        };
        let running = Running::start(&mut command);
        listens(ends.port);
        running
    }

    /// Whom a client has to trust.
    fn authority(self, place: &Place, ends: &Ends) -> PathBuf {
        if self != Front::Caddy {
            return ends.certificate.certificate.clone();
        }
        let root = place.path("data/caddy/pki/authorities/local/root.crt");
        until("Caddy's own authority", LIMIT, || root.exists());
        root
    }

    pub(crate) fn cell(self, place: &Place, rows: &mut Vec<Row>) {
        let options: &[&str] = if place.short { &["--long-poll", "2"] } else { &[] };
        // Gateways that share a database; a short try does with one.
        let postgres = (!place.short).then(|| {
            let port = free_port().to_string();
            (Postgres::start(&["--port", &port]), format!("postgres://fastmap@127.0.0.1:{port}/postgres"))
        });
        let environment: Vec<_> =
            postgres.iter().map(|(_, database)| ("FASTMAP_DATABASE", database.as_str())).collect();
        let first = place.service(options, &environment);
        let second = (!place.short).then(|| first.beside());
        let address = |gateway: &Service| gateway.url.trim_start_matches("http://").to_owned();
        let ends = Ends {
            port: free_port(),
            more_ports: [free_port(), free_port()],
            certificate: place.certificate(),
            gateways: [Some(&first), second.as_ref()].into_iter().flatten().map(address).collect(),
        };
        let proxy = self.start(place, &ends, &[]);
        let account = first.account("a", "1000");
        let url = format!("https://localhost:{}", ends.port);
        let client = Client {
            account: Account { url: url.clone(), ..account },
            certificate: Some(self.authority(place, &ends)),
        };
        let piece = self.piece();
        let row =
            |trouble, noticed, back, outcome| Row { piece: piece.clone(), trouble, noticed, back, outcome };

        let below = Account { url: format!("{url}/fastmap"), ..client.account.clone() };
        let below = Client { account: below, ..client.clone() };
        let Some(second) = second else {
            let worked = traffic::all_and_browser(place, &below, BROWSED_NAP);
            rows.push(row("none, below a path", None, None, worked));
            client.watch(100, 50).finish();
            return;
        };
        let worked = traffic::all_and_browser(place, &client, NAP);
        traffic::all_and_browser(place, &below, NAP);
        let worked = worked + "; all of it below a path as well";
        rows.push(row("none", None, None, worked));

        let mut map = client.watch(800, 50);
        let (met, _proxy) = map.trouble(|| drop(proxy), Watched::warns, |()| self.start(place, &ends, &[]));
        rows.push(row("it is away, and comes again", Some(met.noticed), Some(met.back), all_answers()));
        let longest = map.longest_wait(|| second.kill(), 200);
        rows.push(row("one of two gateways is killed", None, Some(longest), all_answers()));
        map.finish();
        first.ask(&["credits", "audit"]);
        if self == Front::Nginx {
            let ends = Ends { port: free_port(), ..ends };
            let limited = self.start(place, &ends, &[("    client_max_body_size 64m;\n", "")]);
            let account =
                Account { url: format!("https://localhost:{}", ends.port), ..client.account.clone() };
            let begun = Instant::now();
            let ended = Client { account, ..client }.start(&["large-items", "2", "5000000"]).finish();
            // With the time that the program needs until the first item is sent.
            let took = begun.elapsed();
            let errors = Report::read(&ended.stdout).errors;
            let error = errors.last().unwrap_or_else(|| panic!("{ended:#?}"));
            assert!(took < FATAL && error.text.contains("client_max_body_size"), "{took:?}: {ended:#?}");
            let said = "the map's error, which names `client_max_body_size`".to_owned();
            rows.push(row(
                "its default limit of bodies (1 MB)",
                Some((took, said)),
                None,
                "the map ends".to_owned(),
            ));
            drop(limited);
        }
    }
}

pub(crate) fn all_answers() -> String {
    "each result once, in order".to_owned()
}

/// nginx's own configuration, as a distribution has it, around that of deploy/.
fn nginx(place: &Place, ends: &Ends, changes: &[(&str, &str)]) -> PathBuf {
    let servers: Vec<_> =
        ends.gateways.iter().map(|gateway| format!("server {gateway} fail_timeout=1s;")).collect();
    let (certificate, key) = (&ends.certificate.certificate, &ends.certificate.key);
    let (listen, servers) = (format!("listen 127.0.0.1:{} ssl;", ends.port), servers.join(" "));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let usual = [
        ("server 127.0.0.1:8750 fail_timeout=1s;", servers.as_str()),
        ("listen 443 ssl;", &listen),
        ("/etc/fastmap/tls.pem", &certificate),
        ("/etc/fastmap/tls.key", &key),
    ];
    let site = place.deployed("nginx/fastmap.conf", &[&usual, changes].concat());
    let folder = place.path("nginx");
    std::fs::create_dir_all(&folder).expect("room on the disk");
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let text = format!(
        "daemon off;\npid {folder}/{}.pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n  access_log off;\n\
         {temporary}  include {};\n}}\n",
        ends.port,
        site.display()
    );
    place.write("nginx.conf", &text)
}
