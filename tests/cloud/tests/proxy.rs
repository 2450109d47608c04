//! A service that only a proxy leads to, with a certificate of an authority of one's own: by the usual variables, in a real
//! network (namespaces), with a real proxy.

use std::fs;
use std::process::Command;

use fastmap_test_cloud::{Account, Network};
use fastmap_test_programs::{Report, Running};
use serde_json::Value;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");

#[test]
fn a_service_behind_a_proxy_is_reached_by_the_usual_variables() {
    let Some(mut network) = Network::new() else {
        println!("not tried: only root may make network namespaces");
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
