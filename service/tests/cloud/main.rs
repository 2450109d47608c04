//! The backend `Cloud` against a real service: this program is uploaded, and its functions run there.

#[allow(dead_code, reason = "shared with the tests of the service alone")]
#[path = "../service/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the tests of the service alone")]
#[path = "../service/server.rs"]
mod server;

mod common;
mod maps;
mod money;
mod network;
mod promises;
mod proxy;
mod refusals;
mod restarts;

fastmap::test_support!();
