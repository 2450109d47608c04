//! Requests that are wrong: each is refused by its code, before anything of it is done.

use ureq::http::Request;

use crate::client::{Wrong, agent, batch, nonce, now};
use crate::server::Server;

/// HMAC and hexadecimal by another hand than the service's, from docs/protocol.md alone.
fn sign_anew(key: &str, canonical: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).expect("a key of any length");
    mac.update(canonical.as_bytes());
    hexadecimal_anew(&mac.finalize().into_bytes())
}

fn sha256_anew(bytes: &[u8]) -> String {
    use sha2::Digest;
    hexadecimal_anew(&sha2::Sha256::digest(bytes))
}

fn hexadecimal_anew(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn a_signature_made_from_the_document_alone_is_good() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let (token, key) = client.secret.reveal().split_at(32);
    let (nonce, timestamp, query) = (nonce(), now().to_string(), "before=nothing");
    let digest = sha256_anew(b"");
    let canonical =
        ["fastmap-request-v1", "GET", "/api/v1/runs", query, &timestamp, &nonce, &digest].join("\n");
    let request = Request::get(format!("{}/api/v1/runs?{query}", server.url))
        .header("Authorization", format!("Bearer {token}"))
        .header("Fastmap-Timestamp", &timestamp)
        .header("Fastmap-Nonce", &nonce)
        .header("Fastmap-Digest", &digest)
        .header("Fastmap-Signature", sign_anew(key, &canonical));
    let mut response = agent().run(request.body(()).expect("a request")).expect("an answer");
    let body = response.body_mut().read_to_string().expect("text");
    assert_eq!((response.status().as_u16(), body.as_str()), (200, r#"{"runs":[],"next":null}"#));
    let canonical = ["fastmap-response-v1", &nonce, "200", "", "", &sha256_anew(body.as_bytes())].join("\n");
    let signature = response.headers()["fastmap-signature"].to_str().expect("text");
    assert_eq!(signature, sign_anew(key, &canonical));
}

#[test]
fn the_vectors_of_the_document_are_those_of_any_hmac() {
    let document = include_str!("../../../docs/protocol.md");
    let vector = |name: &str| {
        let line =
            document.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.trim().to_owned()
    };
    let secret = vector("secret            ");
    let canonical = |name: &str| vector(name).replace("\\n", "\n");
    assert_eq!(vector("request signature "), sign_anew(&secret[32..], &canonical("request canonical ")));
    assert_eq!(vector("answer signature  "), sign_anew(&secret[32..], &canonical("answer canonical  ")));
    assert_eq!(vector("request digest    "), sha256_anew(vector("request body      ").as_bytes()));
    assert_eq!(vector("answer digest     "), sha256_anew(vector("answer body       ").as_bytes()));
}

#[test]
fn a_request_that_is_not_the_tokens_own_is_refused_unsigned() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let other = server.tenant("b", "1000");
    let ask = |wrong: Wrong| client.wrong("GET", "/runs", b"", &wrong);
    for (wrong, code) in [
        (Wrong { token: Some("0".repeat(32)), ..Wrong::default() }, "unauthorized"),
        (Wrong { token: Some(other.secret.token().to_owned()), ..Wrong::default() }, "bad_signature"),
        (Wrong { signature: Some("0".repeat(64)), ..Wrong::default() }, "bad_signature"),
        (Wrong { signature: Some("no signature".to_owned()), ..Wrong::default() }, "bad_signature"),
    ] {
        let reply = ask(wrong.clone());
        assert_eq!((reply.status, reply.signed), (401, false), "{wrong:?}");
        reply.problem(code);
    }
    for wrong in [
        Wrong { nonce: Some("short".to_owned()), ..Wrong::default() },
        Wrong { nonce: Some("+".repeat(32)), ..Wrong::default() },
        Wrong { digest: Some("x".repeat(64)), ..Wrong::default() },
    ] {
        ask(wrong).problem("bad_request");
    }
    ask(Wrong { protocol: Some("2".to_owned()), ..Wrong::default() }).problem("unsupported_protocol");
    let bare = agent().get(format!("{}/api/v1/runs", server.url)).call().expect("an answer");
    assert_eq!(bare.status(), 401);
}

#[test]
fn replays_and_wrong_clocks_are_refused() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let used = nonce();
    let again = Wrong { nonce: Some(used), ..Wrong::default() };
    assert_eq!(client.wrong("GET", "/runs", b"", &again).status, 200);
    let reply = client.wrong("GET", "/runs", b"", &again);
    reply.problem("nonce_repeated");
    assert!(reply.signed);
    for skew in [-301, 302, -100_000] {
        let reply = client.wrong("GET", "/runs", b"", &Wrong { timestamp: skew, ..Wrong::default() });
        let server_time = reply.problem("clock_skew").server_time.expect("the service's clock");
        assert!(server_time.abs_diff(now() as u64) < 30);
    }
    for skew in [-290, 290] {
        assert_eq!(
            client.wrong("GET", "/runs", b"", &Wrong { timestamp: skew, ..Wrong::default() }).status,
            200
        );
    }
}

#[test]
fn a_body_that_was_changed_or_is_too_large_is_refused() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let target = format!("/runs/{run}/batches/1");
    let other = fastmap_backends::cloud::digest(b"other");
    let changed = Wrong { digest: Some(other), ..Wrong::default() };
    client.wrong("PUT", &target, &batch(&["e"]), &changed).problem("digest_mismatch");
    client.call("POST", "/runs", &vec![b' '; 100_000]).problem("too_large");
    client.call("POST", "/runs", b"{").problem("invalid_body");
    for wrong in [&b""[..], b"FMB1", b"FMB1 and something that is not one", &batch(&["e", "e"])[..50]] {
        client.call("PUT", &target, wrong).problem("invalid_body");
    }
    let mut lies = batch(&["e", "e"]);
    lies[16] = 3;
    client.call("PUT", &target, &lies).problem("invalid_body");
    client.call("GET", &target, b"").problem("batch_unknown");
}

#[test]
fn paths_and_methods_that_are_none_are_refused_in_signed_problems() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    for (method, target, code) in [
        ("GET", "/nothing", "not_found"),
        ("GET", "/runs/none/nothing", "not_found"),
        ("DELETE", "/runs", "method_not_allowed"),
        ("GET", "/runs/none/batches/x", "bad_request"),
        ("GET", "/runs/none/batches/-1", "bad_request"),
        ("GET", "/runs/none/batches/18446744073709551615", "not_found"),
        ("GET", "/executables/short", "bad_request"),
        ("PUT", "/executables/short", "bad_request"),
        ("GET", "/runs/none/logs?after=x", "bad_request"),
    ] {
        let reply = client.call(method, target, b"");
        assert!(reply.signed, "{method} {target}");
        reply.problem(code);
    }
}

#[test]
fn a_token_that_is_revoked_or_rotated_or_expired_is_worth_nothing() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let second = server.client("a");
    assert_eq!(second.call("GET", "/runs", b"").status, 200);
    let rotated = server.json(&["token", "rotate", "1"]);
    let third = crate::client::Client {
        secret: rotated["secret"].as_str().expect("a secret").parse().expect("a secret"),
        ..client.clone()
    };
    assert_eq!(third.call("GET", "/runs", b"").status, 200);
    crate::server::until("the revocation", || {
        let reply = client.call("GET", "/runs", b"");
        (reply.status == 401).then(|| reply.problem("token_revoked"))
    });
    assert_eq!(second.call("GET", "/runs", b"").status, 200);
    let old = server.json(&["token", "create", "a", "--days", "0"]);
    let expired = crate::client::Client {
        secret: old["secret"].as_str().expect("a secret").parse().expect("a secret"),
        ..client
    };
    expired.call("GET", "/runs", b"").problem("token_expired");
    let states: Vec<_> = server
        .json(&["token", "list", "a"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|token| token["state"].as_str().expect("a state").to_owned())
        .collect();
    assert_eq!(states, ["revoked", "good", "good", "expired"]);
    assert!(!server.json(&["token", "list"]).to_string().contains("secret"));
}

#[test]
fn who_asks_too_often_is_told_when_to_ask_again() {
    let server = Server::start(&["--max-requests", "5"]);
    let client = server.tenant("a", "1000");
    let refused = (0..50).map(|_| client.call("GET", "/runs", b"")).find(|reply| reply.status != 200);
    let refused = refused.expect("fifty requests are more than five");
    assert_eq!(refused.problem("too_many_requests").retry_after, Some(1));
    assert_eq!(refused.headers["retry-after"], "1");
    let other = server.tenant("b", "1000");
    assert_eq!(other.call("GET", "/runs", b"").status, 200);
}
