//! What goes wrong before anything runs: one error, soon, that says what, where and what to do.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastmap_backends::BackendError;
use fastmap_backends::cloud::{Cloud, CloudOptions, Confirm, ConfirmError, Estimate, Secret, check};
use fastmap_backends::{Local, LocalOptions};

use crate::common::{Ear, Tenancy, cause, config};
use crate::server::Server;

/// The only answer of a map that can't begin; every word of `words` must be in it.
#[track_caller]
fn refused(options: CloudOptions, words: &[&str]) -> BackendError {
    let url = options.url.clone();
    let begun = Instant::now();
    let mut map = config(options).fastmap(|n: u32| n, 0..100);
    let error = map.next().expect("an answer").expect_err("it can't begin");
    assert!(map.next().is_none());
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    let text = error.to_string();
    for word in words.iter().chain([&&*url]) {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
    match cause(&error) {
        BackendError::Unauthorized(message) => BackendError::Unauthorized(message.clone()),
        BackendError::OutOfCredits(message) => BackendError::OutOfCredits(message.clone()),
        BackendError::Declined(message) => BackendError::Declined(message.clone()),
        BackendError::Cloud(message, _) => BackendError::Cloud(message.clone(), None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_secret_that_is_not_known_or_not_whole() {
    let tenancy = Tenancy::shared();
    let known = tenancy.secret.reveal();
    let other_token = format!("{}{}", "0".repeat(32), &known[32..]);
    let other_key = format!("{}{}", &known[..32], "0".repeat(32));
    for wrong in [other_token, other_key] {
        let secret: Secret = wrong.parse().expect("its form is right");
        let error = refused(CloudOptions { secret, ..tenancy.options() }, &["FASTMAP_SECRET", &wrong[..6]]);
        assert!(matches!(error, BackendError::Unauthorized(_)), "{error:?}");
        assert!(!error.to_string().contains(&wrong[32..]));
    }
}

#[test]
fn a_token_that_was_revoked_or_has_expired() {
    let tenancy = Tenancy::start(&[]);
    let secret = |token: &serde_json::Value| token["secret"].as_str().expect("a secret").parse::<Secret>();
    let expired = tenancy.server.json(&["token", "create", "a", "--days", "0"]);
    let options = CloudOptions { secret: secret(&expired).expect("a secret"), ..tenancy.options() };
    let error = refused(options, &["expired", "fastmap token create"]);
    assert!(matches!(error, BackendError::Unauthorized(_)), "{error:?}");
    let tokens = tenancy.server.json(&["token", "list", "a"]);
    let id =
        tokens.as_array().expect("a list").iter().map(|token| token["id"].as_i64().expect("a number")).min();
    tenancy.server.json(&["token", "revoke", &id.expect("a token").to_string()]);
    let error = refused(tenancy.options(), &["revoked", "fastmap token create"]);
    assert!(matches!(error, BackendError::Unauthorized(_)), "{error:?}");
}

#[test]
fn a_service_whose_clock_is_an_hour_ahead() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = clock_ahead(folder.path());
    let server = Server::start_with(&[], &[("LD_PRELOAD", clock)]);
    let secret = server.tenant("a", "1").secret;
    let reached = check(&server.url.parse().expect("an address"), &secret).expect("it answers");
    assert!((3500..3700).contains(&reached.ahead), "{reached:?}");
    let map = config(CloudOptions::new(server.url.as_str(), secret)).fastmap(|n: u32| n + 1, 0..100);
    let answers: Vec<u32> =
        map.collect::<Result<_, _>>().expect("requests are signed with the service's time");
    assert_eq!(answers, (1..=100).collect::<Vec<_>>());
}

/// A library that puts the clock of who loads it ahead by an hour.
fn clock_ahead(folder: &Path) -> PathBuf {
    const SOURCE: &str = "#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
        int clock_gettime(clockid_t id, struct timespec *t) {\n\
            int r = syscall(SYS_clock_gettime, id, t);\n\
            if (id == CLOCK_REALTIME) t->tv_sec += 3600;\n\
            return r;\n\
        }\n";
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE).expect("room on the disk");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(built.expect("a C compiler, as Rust needs one to link").success());
    library
}

#[test]
fn an_address_where_nothing_listens() {
    let tenancy = Tenancy::shared();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let options = CloudOptions {
        url: format!("http://{free}"),
        patience: Duration::from_millis(500),
        ..tenancy.options()
    };
    let error = refused(options, &["can't be reached", "refused", "FASTMAP_CLOUD_URL"]);
    assert!(matches!(error, BackendError::Cloud(..)), "{error:?}");
}

#[test]
fn an_address_of_something_else() {
    let tenancy = Tenancy::shared();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten().take(1) {
            let mut stream = stream;
            let _some = stream.read(&mut [0; 4096]);
            let _sent = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello");
        }
    });
    let error = refused(CloudOptions { url, ..tenancy.options() }, &["not a fastmap service", "404"]);
    assert!(matches!(error, BackendError::Cloud(..)), "{error:?}");
}

#[test]
fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    let secret = "0".repeat(64).parse().expect("its form is right");
    let error =
        Cloud::new(CloudOptions::new("http://fastmap.example.org", secret)).expect_err("not encrypted");
    assert!(
        error.to_string().contains("http://fastmap.example.org") && error.to_string().contains("https://")
    );
}

#[test]
fn an_account_without_credits() {
    let tenancy = Tenancy::with_credits(&[], "0");
    let error = refused(tenancy.options(), &["out of credits", "fastmap credits add"]);
    assert!(matches!(error, BackendError::OutOfCredits(_)), "{error:?}");
}

#[test]
fn a_program_that_is_larger_than_the_service_takes() {
    let tenancy = Tenancy::start(&["--max-executable", "100000"]);
    let error = refused(tenancy.options(), &["takes at most 100000", "strip"]);
    assert!(matches!(error, BackendError::Cloud(..)), "{error:?}");
}

/// Somebody with an opinion.
#[derive(Debug)]
struct Person(Result<(), ConfirmError>, Mutex<Option<Estimate>>);

impl Confirm for Person {
    fn charges(&self, estimate: &Estimate) -> Result<(), ConfirmError> {
        *self.1.lock().expect("no panic") = Some(estimate.clone());
        self.0.clone()
    }
}

#[test]
fn charges_that_are_not_confirmed_send_nothing() {
    let tenancy = Tenancy::start(&[]);
    for (refusal, words) in
        [(ConfirmError::Declined, "declined"), (ConfirmError::NoTerminal, "no terminal to ask at")]
    {
        let confirm = Arc::new(Person(Err(refusal), Mutex::default()));
        let options = CloudOptions { confirm: Some(confirm), ..tenancy.options() };
        let error = refused(options, &[words, "FASTMAP_CONFIRM_CHARGES"]);
        assert!(matches!(error, BackendError::Declined(_)), "{error:?}");
    }
    assert!(tenancy.runs().is_empty());
    let uploads = std::fs::read_dir(tenancy.server.data().join("executables")).expect("a folder");
    assert_eq!(uploads.count(), 0);
}

#[test]
fn charges_are_estimated_by_items_that_are_tried_here_and_used() {
    let tenancy = Tenancy::start(&[]);
    let person = Arc::new(Person(Ok(()), Mutex::default()));
    let ear = Ear::default();
    let options = CloudOptions {
        confirm: Some(Arc::clone(&person) as Arc<dyn Confirm>),
        probe: Some(Arc::new(Local::new(LocalOptions::new(1)).expect("a pool"))),
        notices: Arc::new(ear.clone()),
        ..tenancy.options()
    };
    let spin = |n: u64| (0..200_000u64).fold(n, |sum, k| std::hint::black_box(sum ^ k)) & 1 ^ n;
    let values: Vec<u64> =
        config(options).fastmap(spin, 0..300).collect::<Result<_, _>>().expect("confirmed, and well");
    assert_eq!(values, (0..300).map(spin).collect::<Vec<_>>());
    let estimate = person.1.lock().expect("no panic").clone().expect("it was asked");
    let probe = estimate.probe.expect("some were tried");
    assert!((1..300).contains(&probe.items) && probe.cpu > Duration::from_micros(500), "{probe:?}");
    let (estimated, spent) = (estimate.cost().expect("the number is known"), tenancy.spent());
    assert!((spent / 4..spent * 4).contains(&estimated), "estimated {estimated}, spent {spent}");
    assert_eq!(estimate.items, Some(300));
    assert!(!ear.has_heard("charged automatically"), "it was asked");
}

/// A certificate that nobody has signed is refused, and taken where `SSL_CERT_FILE` names it.
#[test]
fn a_certificate_that_is_not_known() {
    const CASE: &str = "FASTMAP_TEST_TLS";
    if let Ok(case) = std::env::var(CASE) {
        let (url, secret) = case.split_once(' ').expect("two words");
        let options = CloudOptions::new(url, secret.parse().expect("a secret"));
        match std::env::var("SSL_CERT_FILE").expect("it is set").ends_with("other.pem") {
            true => drop(refused(options, &["certificate", "not to be trusted", "SSL_CERT_FILE"])),
            false => assert_eq!(config(options).fastmap(|n: u32| n, 0..50).flatten().count(), 50),
        }
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("room on the disk");
        path.to_str().expect("text").to_owned()
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) =
        (write("cert.pem", made.cert.pem()), write("key.pem", made.signing_key.serialize_pem()));
    let other = write("other.pem", other.cert.pem());
    let tenancy = Tenancy::start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let url = tenancy.server.url.replace("127.0.0.1", "localhost");
    for trusted in [other, certificate] {
        let mut child = Command::new(std::env::current_exe().expect("a path"));
        child.args(["--exact", "refusals::a_certificate_that_is_not_known", "--nocapture"]);
        child.env(CASE, format!("{url} {}", tenancy.secret.reveal())).env("SSL_CERT_FILE", &trusted);
        let output = child.output().expect("this program can be started");
        assert!(output.status.success(), "{trusted}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_configuration_shows_nothing_of_its_secret() {
    let tenancy = Tenancy::shared();
    let shown = format!("{:?}", config(tenancy.options()));
    let (bearer, signing) = tenancy.secret.reveal().split_at(32);
    assert!(shown.contains(&bearer[..6]), "which account it is may be seen: {shown}");
    assert!(!shown.contains(&bearer[..12]) && !shown.contains(&signing[signing.len() - 12..]), "{shown}");
}
