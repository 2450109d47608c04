//! The dashboard as people see it: a real service, real runs, a real browser. Needs chromium and chromedriver, and
//! axe-core where `scripts/setup test` puts it.

#[allow(dead_code, reason = "shared with the service's other tests")]
#[path = "../service/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the service's other tests")]
#[path = "../service/server.rs"]
mod server;

mod access;
mod browser;
mod looks;
mod pages;
mod scene;
