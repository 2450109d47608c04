//! The dashboard without a browser: what a request gets that is not as a browser of ours would send it.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Request, StatusCode};

use crate::client::{Client, open_run, to_json};
use crate::server::{LIMIT, Server, plain_command, start_dev, until};

/// What a browser remembers, and what it says.
#[derive(Clone, Default)]
struct Visitor {
    cookies: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
}

struct Page {
    status: u16,
    text: String,
    headers: ureq::http::HeaderMap,
}

impl Page {
    /// What a hidden field of the page's first form says.
    fn field(&self, name: &str) -> String {
        let begin = self
            .text
            .find(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("{name}: {}", self.text));
        let value = &self.text[begin..];
        value.split('"').nth(3).expect("a value").to_owned()
    }
}

impl Visitor {
    fn ask(&mut self, method: &str, url: &str, form: Option<&str>) -> Page {
        let mut request = Request::builder().method(method).uri(url);
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent: ureq::Agent = config.timeout_global(Some(Duration::from_mins(1))).build().into();
        let mut response = match form {
            None => agent.run(request.body(()).expect("a request")),
            Some(form) => {
                request = request.header("content-type", "application/x-www-form-urlencoded");
                agent.run(request.body(form.to_owned()).expect("a request"))
            }
        }
        .expect("an answer");
        for cookie in response.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().expect("text");
            assert!(cookie.contains("HttpOnly") || cookie.contains("Max-Age=0"), "{cookie}");
            let (name, value) =
                cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair");
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let text = response.body_mut().read_to_string().expect("text");
        Page { status: response.status().as_u16(), text, headers: response.headers().clone() }
    }

    fn get(&mut self, url: &str) -> Page {
        self.ask("GET", url, None)
    }

    /// Signs in by a link.
    fn sign_in(&mut self, server: &Server, link: &str) -> Page {
        let offer = self.get(link);
        assert_eq!(offer.status, 200, "{}", offer.text);
        let form = format!("csrf={}&code={}", offer.field("csrf"), offer.field("code"));
        self.ask("POST", &format!("{}/dashboard/sign-in", server.url), Some(&form))
    }
}

/// Somebody who is signed in to the account of that client.
fn visitor(server: &Server, client: &Client) -> Visitor {
    let mut visitor = Visitor::default();
    assert_eq!(visitor.sign_in(server, &server.dashboard(client)).status, 303);
    visitor
}

#[test]
fn a_link_signs_in_once_and_looking_at_it_does_not_use_it_up() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let link = server.dashboard(&client);
    for _ in 0..2 {
        assert!(Visitor::default().get(&link).text.contains("<b>ada</b>"));
    }
    let mut first = Visitor::default();
    let reply = first.sign_in(&server, &link);
    assert_eq!((reply.status, reply.headers["location"].to_str().expect("text")), (303, "./runs"));
    let cookies: Vec<_> =
        reply.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().expect("text")).collect();
    let session = cookies.iter().find(|cookie| cookie.starts_with("fastmap=")).expect("a session");
    assert!(
        session.contains("HttpOnly") && session.contains("SameSite=Strict") && !session.contains("Secure"),
        "{session}"
    );
    assert_eq!(first.get(&format!("{}/dashboard/runs", server.url)).status, 200);
    // The link is worth nothing now, to anybody.
    assert_eq!(Visitor::default().get(&link).status, 410);
    // The code itself is nowhere in the data.
    let code = link.rsplit('/').next().expect("a code");
    let kept = std::fs::read(server.data().join("fastmap.sqlite")).expect("the database");
    let wal = std::fs::read(server.data().join("fastmap.sqlite-wal")).unwrap_or_default();
    assert!(!kept.windows(code.len()).chain(wal.windows(code.len())).any(|bytes| bytes == code.as_bytes()));
}

#[test]
fn two_who_use_one_link_at_once_are_not_both_signed_in() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    for _ in 0..5 {
        let link = server.dashboard(&client);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut visitor = Visitor::default();
                        let offer = visitor.get(&link);
                        if offer.status != 200 {
                            return offer.status;
                        }
                        let form = format!("csrf={}&code={}", offer.field("csrf"), offer.field("code"));
                        visitor.ask("POST", &format!("{}/dashboard/sign-in", server.url), Some(&form)).status
                    })
                })
                .collect();
            tries.into_iter().map(|one| one.join().expect("no panic")).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 303).count(), 1, "{statuses:?}");
    }
}

#[test]
fn signing_in_is_refused_to_other_sites_other_browsers_and_who_tries_too_often() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let link = server.dashboard(&client);
    let target = format!("{}/dashboard/sign-in", server.url);
    let mut shown = Visitor::default();
    let offer = shown.get(&link);
    let form = format!("csrf={}&code={}", offer.field("csrf"), offer.field("code"));
    // A browser that was not shown the page, and a page of another site that makes ours send the form.
    assert_eq!(Visitor::default().ask("POST", &target, Some(&form)).status, 403);
    let mut lured = Visitor { headers: vec![("sec-fetch-site", "cross-site".to_owned())], ..shown.clone() };
    assert_eq!(lured.ask("POST", &target, Some(&form)).status, 403);
    // By plain HTTP from elsewhere: refused, the link stays good.
    let mut far = Visitor { headers: vec![("host", "fastmap.example:80".to_owned())], ..Visitor::default() };
    assert_eq!(far.get(&link).status, 403);
    assert_eq!(shown.ask("POST", &target, Some(&form)).status, 303);
    let guess = format!("{}/dashboard/sign-in/{}", server.url, "0".repeat(48));
    let refused = (0..70).map(|_| Visitor::default().get(&guess).status).find(|status| *status == 429);
    assert_eq!(refused, Some(StatusCode::TOO_MANY_REQUESTS.as_u16()));
    // Who is signed in is not kept out by that, nor who has a good link and the same address.
    assert_eq!(shown.get(&format!("{}/dashboard/runs", server.url)).status, 200);
    let second = server.dashboard(&client);
    assert_eq!(Visitor::default().sign_in(&server, &second).status, 303);
}

#[test]
fn behind_a_proxy_that_ends_tls_cookies_are_for_tls_alone() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let https = ("x-forwarded-proto", "https".to_owned());
    let mut visitor =
        Visitor { headers: vec![https, ("host", "fastmap.example".to_owned())], ..Visitor::default() };
    let reply = visitor.sign_in(&server, &server.dashboard(&client));
    assert_eq!(reply.status, 303);
    let cookies: Vec<_> =
        reply.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().expect("text")).collect();
    let session = cookies.iter().find(|cookie| cookie.starts_with("__Host-fastmap=")).expect("a session");
    assert!(session.contains("Secure") && session.contains("Path=/"), "{session}");
    assert_eq!(visitor.get(&format!("{}/dashboard/runs", server.url)).status, 200);
}

#[test]
fn a_session_ends_with_its_token_and_by_signing_out() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let runs = format!("{}/dashboard/runs", server.url);
    let mut first = visitor(&server, &client);
    let other = server.client("ada");
    let mut second = visitor(&server, &other);
    let page = first.get(&runs);
    let out = first.ask(
        "POST",
        &format!("{}/dashboard/sign-out", server.url),
        Some(&format!("csrf={}", page.field("csrf"))),
    );
    assert_eq!(out.status, 200);
    assert_eq!(first.get(&runs).status, 401);
    // The cookie of before is worth nothing, should somebody have kept it.
    let mut third = visitor(&server, &client);
    let link = server.dashboard(&client);
    // A page that is alive ends, too.
    let mut fourth = third.clone();
    let events = format!("{runs}/{}/events", other.run());
    let alive = std::thread::scope(|scope| {
        let alive = scope.spawn(|| fourth.get(&events));
        server.json(&["token", "revoke", "1"]);
        alive.join().expect("no panic")
    });
    assert!(alive.text.contains("Signed out"), "{}", alive.text);
    assert_eq!(third.get(&runs).status, 401);
    assert_eq!(third.get(&link).status, 410, "its links end, too");
    assert_eq!(second.get(&runs).status, 200, "another token's go on");
}

#[test]
fn every_change_needs_the_sessions_own_form() {
    let server = Server::start(&[]);
    let (client, other) = (server.tenant("ada", "1000"), server.tenant("bob", "1000"));
    let run = client.run();
    let (mut visitor, mut stranger) = (self::visitor(&server, &client), self::visitor(&server, &other));
    let theirs = stranger.get(&format!("{}/dashboard/tokens", server.url)).field("csrf");
    let own = visitor.get(&format!("{}/dashboard/tokens", server.url)).field("csrf");
    let targets = [
        (format!("/dashboard/runs/{run}/cancel"), ""),
        ("/dashboard/tokens".to_owned(), "&label=x&days=7"),
        ("/dashboard/tokens/1/revoke".to_owned(), ""),
        ("/dashboard/sign-out".to_owned(), ""),
    ];
    for (target, fields) in &targets {
        let url = format!("{}{target}", server.url);
        for csrf in ["", "0", theirs.as_str()] {
            assert_eq!(
                visitor.ask("POST", &url, Some(&format!("csrf={csrf}{fields}"))).status,
                403,
                "{target}"
            );
        }
        assert_eq!(visitor.ask("POST", &url, Some(fields.trim_start_matches('&'))).status, 403, "{target}");
        // With the right one, but from another site's page; and with nobody's session.
        let mut lured =
            Visitor { headers: vec![("sec-fetch-site", "cross-site".to_owned())], ..visitor.clone() };
        assert_eq!(lured.ask("POST", &url, Some(&format!("csrf={own}{fields}"))).status, 403, "{target}");
        assert_eq!(
            Visitor::default().ask("POST", &url, Some(&format!("csrf={own}{fields}"))).status,
            401,
            "{target}"
        );
        assert!([405, 404].contains(&visitor.get(&url).status) || target == "/dashboard/tokens", "{target}");
    }
    let info: Value = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!(info["state"], "open");
    assert_eq!(server.json(&["token", "list", "ada"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn accounts_see_nothing_of_each_other() {
    let server = Server::start(&[]);
    let (ada, bob) = (server.tenant("ada", "1000"), server.tenant("bob", "500"));
    let request = fastmap_backends::cloud::OpenRun {
        label: Some("secret project".to_owned()),
        ..open_run(&ada.upload_worker(), "obey")
    };
    let run: Value = ada.call("POST", "/runs", &to_json(&request)).json(201);
    let run = run["run"].as_str().expect("a name");
    ada.batch(run, 1, &["p2", "?"]);
    let mut owner = visitor(&server, &ada);
    let mut visitor = visitor(&server, &bob);
    let csrf = visitor.get(&format!("{}/dashboard/tokens", server.url)).field("csrf");
    let nothing = "0".repeat(32);
    for page in ["/runs/{run}", "/runs/{run}/failures", "/runs/{run}/events", "/runs/{run}/cancel"] {
        let url = |run: &str| format!("{}/dashboard{}", server.url, page.replace("{run}", run));
        let (method, form) =
            if page.ends_with("cancel") { ("POST", Some(format!("csrf={csrf}"))) } else { ("GET", None) };
        let theirs = visitor.ask(method, &url(run), form.as_deref());
        let none = visitor.ask(method, &url(&nothing), form.as_deref());
        assert_eq!((theirs.status, none.status), (404, 404), "{page}");
        // What was asked for is in both, in a link to the page itself.
        let theirs = theirs.text.replace(run, &nothing);
        assert_eq!(theirs, none.text, "{page} tells whether there is something");
    }
    for page in ["/runs", "/runs?q=secret", "/runs?before={run}", "/runs?after={run}", "/credits", "/tokens"]
    {
        let text = visitor.get(&format!("{}/dashboard{}", server.url, page.replace("{run}", run))).text;
        assert!(!text.contains("secret project") && !text.contains(">ada<"), "{page}: {text}");
        assert!(!text.contains(&format!("run-{run}")), "{page}: {text}");
    }
    assert_eq!(
        visitor
            .ask("POST", &format!("{}/dashboard/tokens/1/revoke", server.url), Some(&format!("csrf={csrf}")))
            .status,
        404
    );
    assert_eq!(ada.call("POST", "/auth", b"").status, 200);
    // The agents' page is the operator's.
    let agents = format!("{}/dashboard/agents", server.url);
    assert_eq!(visitor.get(&agents).status, 404);
    server.json(&["account", "operator", "bob"]);
    let page = visitor.get(&agents);
    assert!(
        page.status == 200 && page.text.contains("in this service") && !page.text.contains("ada"),
        "{}",
        page.text
    );
    // The owner sees all of it.
    let page = owner.get(&format!("{}/dashboard/runs/{run}", server.url));
    assert!(
        page.text.contains("secret project")
            && page.text.contains("no such order")
            && page.text.contains("line 1"),
        "{}",
        page.text
    );
}

#[test]
fn pages_forbid_what_they_do_not_need_and_are_not_kept() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let mut visitor = visitor(&server, &client);
    for page in ["/runs", "/tokens", "/credits", "/sign-in", "/nothing"] {
        let page = visitor.get(&format!("{}/dashboard{page}", server.url));
        let header = |name: &str| page.headers[name].to_str().expect("text").to_owned();
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-store");
        for forbidden in ["<style", " style=", "onclick", "javascript:", "https://", "http://"] {
            let text = page.text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
            assert!(!text.contains(forbidden), "{forbidden} in {text}");
        }
    }
    let css = visitor.get(&format!("{}/dashboard/runs", server.url)).text;
    let css = css
        .split("href=\"")
        .find_map(|rest| rest.split('"').next().filter(|at| at.contains(".css")))
        .expect("a style")
        .to_owned();
    let css = visitor.get(&format!("{}/dashboard/{css}", server.url));
    assert!(css.status == 200 && css.headers["cache-control"].to_str().expect("text").contains("immutable"));
    assert!(!css.text.contains("url(") && !css.text.contains("@import"));
}

#[test]
fn what_happened_in_a_run_outlives_the_service() {
    let mut server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let run = client.run();
    client.batch(&run, 1, &["s50", "?", "e"]);
    client.batch(&run, 2, &["a"]);
    client.call("POST", &format!("/runs/{run}/done"), b"");
    let mut visitor = visitor(&server, &client);
    let url = format!("{}/dashboard/runs/{run}", server.url);
    let told = |text: &str| {
        text.contains("no such order") && text.contains("about to abort") && text.contains("worker-")
    };
    assert!(told(&visitor.get(&url).text));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.ended().success());
    server.restart();
    // So does the session.
    let page = until("the page", || Some(visitor.get(&url)).filter(|page| page.status == 200));
    assert!(told(&page.text), "{}", page.text);
}

#[test]
fn a_dev_service_says_where_its_dashboard_is() {
    let (mut process, lines) = start_dev();
    let line = until("the link", || {
        let line = lines.recv_timeout(LIMIT).expect("it says more");
        line.strip_prefix("# dashboard").map(str::to_owned)
    });
    let link = line.split_once("): ").expect("an address").1;
    let offer = Visitor::default().get(link);
    assert!(offer.status == 200 && offer.text.contains("<b>dev</b>"), "{}", offer.text);
    process.kill().expect("it runs");
    process.wait().expect("it is a child");
}

#[test]
fn the_command_says_what_is_wrong() {
    let server = Server::start(&[]);
    let client = server.tenant("ada", "1000");
    let dashboard = |url: &str, secret: &str| {
        let output = plain_command(&["dashboard", "--url", url, "--secret", secret]);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    let good = client.secret.reveal();
    assert!(dashboard("http://fastmap.example", good).contains("use https://"));
    assert!(dashboard(&server.url, &"a".repeat(64)).contains("does not know the secret"));
    assert!(dashboard(&server.url, "short").contains("FASTMAP_SECRET"));
    server.json(&["token", "revoke", "1"]);
    until("the revocation", || dashboard_refused(&server, good).contains("revoked").then_some(()));
}

fn dashboard_refused(server: &Server, secret: &str) -> String {
    let output = plain_command(&["dashboard", "--url", &server.url, "--secret", secret]);
    String::from_utf8(output.stderr).expect("text")
}
