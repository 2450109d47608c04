//! The agent's side of work that goes through JetStream.
//!
//! `work_source` leases work: `fair_pull` says which tenant's consumer is asked next, `leases` has what the agent holds,
//! `upload_cache` the files of its runs, and `gateway_client` sends requests to gateways. `announcement` keeps the agent's
//! entry in the servers' bucket.

mod announcement;
mod fair_pull;
mod gateway_client;
mod intake;
mod leases;
mod upload_cache;
mod work_source;

pub use announcement::{announce, leave};
pub use upload_cache::Cache;
pub use work_source::JetStreamWorkSource;
