//! What the tests share: a service of their own, programs that use it, and a terminal to answer questions at.

#![allow(clippy::missing_panics_doc, reason = "all of this is for tests, where a panic is the report")]

mod cluster;
mod network;
mod service;
mod terminal;

pub use cluster::{Cluster, Settings};
pub use network::{Machine, Network};
pub use service::{Account, Service};
pub use terminal::{Terminal, without_terminal};
