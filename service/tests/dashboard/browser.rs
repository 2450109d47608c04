//! Chromium, driven by chromedriver: both end with the test. What a page says on its console and which hosts it asks is
//! looked at, too.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use url::{ParseError, Url};

/// What a page is to become, it has become by then.
const LIMIT: Duration = Duration::from_mins(1);

/// A browser with one window.
pub(crate) struct Browser {
    // Dropped before the profile that its browser writes to.
    _driver: Driver,
    pub(crate) client: Client,
    _profile: tempfile::TempDir,
    /// The address that it may ask for what is below.
    home: String,
}

/// Ended with the test, also one that fails: it leads a process group, which its browser is in, too, because chromedriver
/// does not end the browser of a session that was not closed.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // Fails only where both are gone.
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A command of chromedriver's own.
#[derive(Debug)]
struct Own(&'static str, Value);

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _url: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

fn start_driver() -> (Driver, u16) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("chromedriver is installed (scripts/setup test)");
    let lines = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_suffix('.')?.rsplit_once("on port ")?.1.parse().ok())
        .expect("chromedriver says where it listens");
    (Driver(driver), port)
}

impl Browser {
    /// A fresh browser for the service at that address.
    pub(crate) async fn start(url: &str) -> Browser {
        let (driver, port) = start_driver();
        let profile = tempfile::tempdir().expect("a folder");
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({
            "browserName": "chrome",
            // A test's own certificate has no authority that a browser knows.
            "acceptInsecureCerts": url.starts_with("https://"),
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is one") };
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromium can be started");
        Browser { _driver: driver, client, _profile: profile, home: url.to_owned() }
    }

    async fn own(&self, endpoint: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Own(endpoint, body)).await.expect("chromedriver does it")
    }

    /// A command of the browser's own protocol.
    pub(crate) async fn devtools(&self, command: &str, params: Value) {
        self.own("goog/cdp/execute", json!({ "cmd": command, "params": params })).await;
    }

    /// How wide the window is, and whether its user likes it dark.
    pub(crate) async fn look(&self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    pub(crate) async fn go(&self, path: &str) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.home) };
        self.client.goto(&url).await.expect("the page is there");
    }

    /// The text of the first element of that selector; empty where there is none.
    pub(crate) async fn text(&self, css: &str) -> String {
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : '';";
        self.run(script, vec![json!(css)]).await.as_str().expect("text").to_owned()
    }

    pub(crate) async fn click(&self, css: &str) {
        let begun = Instant::now();
        loop {
            let found =
                self.client.find(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"));
            match found.click().await {
                // A page that moves by itself has put another one in its place.
                Err(error) if error.is_stale_element_reference() && begun.elapsed() < LIMIT => {}
                clicked => return clicked.unwrap_or_else(|error| panic!("{css}: {error}")),
            }
        }
    }

    pub(crate) async fn write(&self, css: &str, text: &str) {
        let found =
            self.client.find(Locator::Css(css)).await.unwrap_or_else(|error| panic!("{css}: {error}"));
        found.send_keys(text).await.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    pub(crate) async fn run(&self, script: &str, args: Vec<Value>) -> Value {
        self.client.execute(script, args).await.expect("the script is good")
    }

    /// Waits until the text of an element is as wanted; gives it. Nothing is reloaded.
    pub(crate) async fn until(&self, css: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let text = self.text(css).await;
            if wanted(&text) {
                return text;
            }
            assert!(
                begun.elapsed() < LIMIT,
                "{css} did not become as wanted: {text:?}\n{}",
                self.text("body").await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// No page has complained on the console since the last time, save for words that are expected, and none has asked
    /// another host.
    pub(crate) async fn check_log(&self, expected: &[&str]) {
        let console = self.own("se/log", json!({ "type": "browser" })).await;
        for entry in console.as_array().expect("a list") {
            let message = entry["message"].as_str().unwrap_or_default();
            let known = expected.iter().any(|words| message.contains(words));
            assert!(known, "on the console: {entry}");
        }
        let events = self.own("se/log", json!({ "type": "performance" })).await;
        let mut requests = 0;
        for entry in events.as_array().expect("a list") {
            let event: Value = serde_json::from_str(entry["message"].as_str().expect("JSON")).expect("JSON");
            let message = &event["message"];
            if message["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = message["params"]["request"]["url"].as_str().expect("an address");
            // The page that the browser itself begins with, and the frames in it.
            let by = message["params"]["documentURL"].as_str().unwrap_or_default();
            let is_browsers = |address: &str| {
                address.starts_with("chrome://") || address.starts_with("chrome-untrusted://")
            };
            if is_browsers(url) && is_browsers(by) {
                continue;
            }
            requests += 1;
            let own = url.strip_prefix(&self.home).is_some_and(|rest| rest.starts_with('/'));
            assert!(own || url.starts_with("data:"), "asked another host: {url}");
        }
        assert!(requests > 0, "no request was seen");
    }

    pub(crate) async fn end(self) {
        let _closed = self.client.clone().close().await;
    }
}
