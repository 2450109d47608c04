//! What the tests share: a service of their own, programs that use it, and a terminal to answer questions at.

#![allow(clippy::missing_panics_doc, reason = "all of this is for tests, where a panic is the report")]

mod cluster;
mod network;
mod postgres;
mod service;
mod terminal;

pub use cluster::{Cluster, Settings};
pub use network::{Machine, Network};
pub use postgres::Postgres;
pub use service::{Account, Service};
pub use terminal::{Terminal, without_terminal};

use std::path::{Path, PathBuf};

/// A program that scripts/setup has put beside the tests (a path below `tools`), or else one of that name on
/// the `PATH`.
pub fn tool(path: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let mut folders = this.ancestors().map(|folder| folder.join("tools").join(path));
    let name = || Path::new(path).file_name().map(PathBuf::from);
    folders.find(|path| path.exists()).or_else(name).expect("it has a name")
}
