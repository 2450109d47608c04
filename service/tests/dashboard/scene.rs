//! A service with an account, a browser that is signed in to it, and a client that works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fastmap_backends::cloud::{BatchBody, OpenRun, RunOpened};

use crate::browser::Browser;
use crate::client::{Client, open_run, to_json};
use crate::server::Server;

pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) browser: Browser,
}

impl Scene {
    /// Starts all, and signs the browser in as a user does.
    pub(crate) async fn start() -> Scene {
        let server = Server::start(&[]);
        let client = server.tenant("ada", "1000");
        let browser = Browser::start(&server.url).await;
        let scene = Scene { server, client, browser };
        scene.sign_in().await;
        scene
    }

    pub(crate) async fn sign_in(&self) {
        let output = self.server.dashboard(&self.client);
        self.browser.go(output.trim()).await;
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
