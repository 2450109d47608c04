//! A service with an account, the options of a client of it, and what that client is told.

use std::sync::{Arc, Mutex, Weak};

use fastmap::{Error, ExecPolicy, FastmapConfig, Options, Verbosity};
use fastmap_backends::BackendError;
use fastmap_backends::cloud::{Cloud, CloudOptions, Notice, NoticeListener, Secret};
use fastmap_backends::local::{OutputSink, Stream};
use fastmap_backends::unpoisoned::LockUnpoisoned;

use crate::server::Server;

/// A service and the secret of its only account, which has 1000 credits.
pub(crate) struct Tenancy {
    pub(crate) server: Server,
    pub(crate) secret: Secret,
}

impl Tenancy {
    pub(crate) fn start(options: &[&str]) -> Tenancy {
        Tenancy::with_credits(options, "1000")
    }

    pub(crate) fn with_credits(options: &[&str], credits: &str) -> Tenancy {
        let server = Server::start(options);
        let secret = server.tenant("a", credits).secret;
        Tenancy { server, secret }
    }

    /// One that other tests use at the same time.
    pub(crate) fn shared() -> Arc<Tenancy> {
        static SHARED: Mutex<Weak<Tenancy>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock_unpoisoned();
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Tenancy::start(&[]));
            *shared = Arc::downgrade(&started);
            started
        })
    }

    pub(crate) fn options(&self) -> CloudOptions {
        CloudOptions::new(self.server.url.as_str(), self.secret.clone())
    }

    /// What the account has spent, which the ledger must agree with.
    pub(crate) fn spent(&self) -> i64 {
        self.server.audit();
        1_000_000_000 - self.server.balance("a")
    }

    /// The account's runs, newest first.
    pub(crate) fn runs(&self) -> Vec<serde_json::Value> {
        self.server.json(&["runs", "list"]).as_array().expect("a list").clone()
    }
}

pub(crate) fn cloud(options: CloudOptions) -> Cloud {
    Cloud::new(options).expect("the address of a service")
}

/// A configuration whose maps go to the cloud.
pub(crate) fn config(options: CloudOptions) -> FastmapConfig {
    fastmap::init(quiet().backend(cloud(options))).expect("options that can be used")
}

pub(crate) fn local() -> FastmapConfig {
    fastmap::init(quiet().local_processes(2)).expect("options that can be used")
}

fn quiet() -> Options {
    Options::new().exec_policy(ExecPolicy::Local).verbosity(Verbosity::Quiet)
}

/// Why the backend ended a map.
pub(crate) fn cause(error: &Error) -> &BackendError {
    let source = std::error::Error::source(error).expect("the backend's error");
    source.downcast_ref().unwrap_or_else(|| panic!("{error:?}"))
}

/// Keeps what is told and printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ear(Arc<Mutex<Vec<String>>>);

impl Ear {
    pub(crate) fn heard(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    pub(crate) fn has_heard(&self, words: &str) -> bool {
        self.heard().iter().any(|line| line.contains(words))
    }
}

impl NoticeListener for Ear {
    fn notice(&self, notice: &Notice<'_>) {
        self.0.lock().expect("no panic").push(notice.to_string());
    }
}

impl OutputSink for Ear {
    fn line(&self, worker: &str, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        self.0.lock().expect("no panic").push(format!("{worker} {stream:?} {text}"));
    }
}
