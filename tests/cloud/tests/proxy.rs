//! A service that only a proxy leads to: one of the client's, by the usual variables, in a real network (namespaces), with a
//! certificate of an authority of one's own; one in front of the service; and nginx as deploy/ has it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use fastmap_test_cloud::{Account, Network, Service};
use fastmap_test_programs::{LIMIT, Report, Running, skipped, until};
use serde_json::Value;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");

#[test]
fn a_service_behind_a_proxy_is_reached_by_the_usual_variables() {
    let Some(mut network) = Network::new() else {
        skipped("only root may make network namespaces");
        return;
    };
    let (client, proxy, service) = (network.machine(), network.machine(), network.machine());
    service.refuse(&client);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);

    let made = rcgen::generate_simple_self_signed(vec![service.address.clone()]).expect("a certificate");
    fs::write(file("certificate.pem"), made.cert.pem()).expect("room on the disk");
    fs::write(file("key.pem"), made.signing_key.serialize_pem()).expect("room on the disk");
    let data = file("data");
    let mut serve = Command::new(SERVICE);
    serve.args(["serve", "--workers", "2", "--listen", &format!("{}:8750", service.address), "--data"]);
    serve.arg(&data).arg("--tls-cert").arg(file("certificate.pem")).arg("--tls-key").arg(file("key.pem"));
    let mut running = service.start(serve.env("FASTMAP_LOG", "warn"));
    let url = running.line("listening at ");
    let ask = |arguments: &[&str]| -> Value {
        let output = Command::new(SERVICE).args(arguments).arg("--json").arg("--data").arg(&data).output();
        serde_json::from_slice(&output.expect("it can be started").stdout).expect("JSON")
    };
    ask(&["account", "create", "a"]);
    let secret = ask(&["token", "create", "a"])["secret"].as_str().expect("a secret").to_owned();
    let account = Account { secret, url };

    let config = format!(
        "Port 8888\nListen {}\nAllow {}\nConnectPort 8750\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 20\n",
        proxy.address,
        client.address,
        file("log").display()
    );
    fs::write(file("tinyproxy.conf"), config).expect("room on the disk");
    let _proxy = proxy.start(Command::new("tinyproxy").args(["-d", "-c"]).arg(file("tinyproxy.conf")));

    let program = || {
        let mut program = account.program(HOST, &["squares", "1000"]);
        program.env("SSL_CERT_FILE", file("certificate.pem"));
        program
    };
    let run = |program: &mut Command| -> Report {
        let ended: fastmap_test_programs::Ended = client.start(program).finish();
        assert!(ended.status.success(), "{ended:#?}");
        Report::read(&ended.stdout)
    };
    let by_proxy = format!("http://{}:8888", proxy.address);
    let report = run(program().env("HTTPS_PROXY", &by_proxy));
    assert_eq!((report.good, report.answers), (1000, 1000), "{report:#?}");
    let log = fs::read_to_string(file("log")).expect("the proxy writes what it does");
    assert!(log.contains(&format!("CONNECT {}:8750", service.address)), "{log}");

    // There is no other way.
    let report = run(program().env("HTTPS_PROXY", &by_proxy).env("NO_PROXY", &service.address));
    let error = &report.errors[0];
    assert!(error.kind == "Cloud" && error.text.contains("can't be reached"), "{report:#?}");
    drop::<Running>(running);
}

/// A balancer before the service that takes bodies of at most so many bytes, as nginx does unless it is told otherwise (1 MB).
/// Gives its address.
fn balancer(folder: &std::path::Path, service: &str, most: usize) -> (Running, String) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let service = service.strip_prefix("http://").expect("plain HTTP");
    let config = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         frontend in\n bind {free}\n http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {most} }}\n \
         default_backend service\nbackend service\n server one {service}\n"
    );
    let path = folder.join("haproxy.cfg");
    fs::write(&path, config).expect("room on the disk");
    let running = Running::start(Command::new("/usr/sbin/haproxy").args(["-db", "-f"]).arg(path));
    until("the balancer", LIMIT, || TcpStream::connect(free).is_ok());
    (running, format!("http://{free}"))
}

#[test]
fn a_balancer_that_takes_no_large_bodies_gets_smaller_ones_or_is_named() {
    let service = Service::start(SERVICE, &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let (_balancer, url) = balancer(folder.path(), &service.url, 300_000);
    let account = Account { url, ..service.account("a", "1000") };
    // The program is uploaded in parts that get through, and batches of many items in parts as well.
    let ended = Running::start(&mut account.program(HOST, &["large-items", "40", "100000"])).finish();
    let report = Report::read(&ended.stdout);
    assert_eq!((report.good, report.errors.len()), (40, 0), "{ended:#?}");

    // One item can't be cut: the map ends soon, and says what to set.
    let begun = Instant::now();
    let ended = Running::start(&mut account.program(HOST, &["large-items", "2", "400000"])).finish();
    let report = Report::read(&ended.stdout);
    let error = report.errors.last().expect("an error");
    assert!(error.kind == "Cloud" && error.text.contains("413"), "{ended:#?}");
    assert!(error.text.contains("client_max_body_size"), "{ended:#?}");
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
}

#[test]
fn programs_and_browsers_come_through_nginx_as_deploy_has_it() {
    // The short form of scripts/try-operators.
    let mut operators = Command::new(env!("CARGO_BIN_EXE_operators"));
    let output = operators.args(["--short", "--service", SERVICE]).output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
