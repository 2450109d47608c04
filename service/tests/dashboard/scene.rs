//! A service with an account, a browser that is signed in to it, and a client that works.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fastmap_backends::cloud::{BatchBody, OpenRun, RunOpened};

use crate::browser::Browser;
use crate::client::{Client, open_run, to_json};
use crate::server::{Server, until};

pub(crate) struct Scene {
    _proxy: Option<Proxy>,
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) browser: Browser,
}

impl Scene {
    /// Starts all, and signs the browser in as a user does.
    pub(crate) async fn start() -> Scene {
        let server = Server::start(&[]);
        let url = server.url.clone();
        Scene::of(server, &url, None).await
    }

    /// The same, where a proxy shows the service below this path.
    pub(crate) async fn start_below(path: &str) -> Scene {
        let server = Server::start(&[]);
        let proxy = Proxy::start(path, &server.url);
        let url = proxy.url.clone();
        Scene::of(server, &url, Some(proxy)).await
    }

    async fn of(server: Server, url: &str, proxy: Option<Proxy>) -> Scene {
        let client = server.tenant("ada", "1000");
        let browser = Browser::start(url).await;
        let scene = Scene { _proxy: proxy, server, client, browser };
        scene.sign_in().await;
        scene
    }

    pub(crate) async fn sign_in(&self) {
        let link = self.server.dashboard(&self.client);
        self.browser.go(link.strip_prefix(&self.server.url).expect("a link to the service")).await;
        self.browser.until("h1", |text| text == "Sign in").await;
        self.browser.click("main button").await;
        self.browser.until("h1", |text| text == "Runs").await;
    }

    /// Opens a run of the test's worker.
    pub(crate) fn open(&self, label: &str, items: u64) -> String {
        let request = OpenRun {
            label: Some(label.to_owned()),
            items: Some(items),
            ..open_run(&self.client.upload_worker(), "obey")
        };
        self.client.call("POST", "/runs", &to_json(&request)).json::<RunOpened>(201).run
    }
}

/// A proxy in front of the service, ended with the test.
pub(crate) struct Proxy {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Proxy {
    /// One that takes this path away from the front of each request's.
    fn start(path: &str, service: &str) -> Proxy {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
        let service = service.strip_prefix("http://").expect("plain HTTP");
        let text = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend in\n bind {free}\n http-request set-path %[path,regsub(^{path},)]\n default_backend service\n\
             backend service\n server one {service}\n"
        );
        let config = folder.path().join("haproxy.cfg");
        std::fs::write(&config, text).expect("room on the disk");
        let process = Command::new("/usr/sbin/haproxy").args(["-db", "-f"]).arg(config).spawn();
        let process = process.expect("haproxy is installed (scripts/setup test)");
        let proxy = Proxy { process, url: format!("http://{free}{path}"), _folder: folder };
        until("the proxy", || TcpStream::connect(free).ok());
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// A batch whose first item is at that index of the input.
pub(crate) fn batch_from(first: u64, items: &[&str]) -> Vec<u8> {
    let body = crate::client::batch(items);
    BatchBody { first, ..BatchBody::decode(&body).expect("a batch") }.encode()
}

/// A client that sends batches of two items until it is told to stop, or the run ends.
pub(crate) struct Work {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Work {
    pub(crate) fn start(client: &Client, run: &str, seq: u64, order: &'static str) -> Work {
        let stop = Arc::<AtomicBool>::default();
        let (client, run, told) = (client.clone(), run.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for seq in seq.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let reply = client.patiently(&run, seq, &batch_from(2 * seq, &[order, order]));
                if reply.status == 409 {
                    return;
                }
                assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
            }
        });
        Work { stop, thread: Some(thread) }
    }

    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("the client is content");
    }
}
