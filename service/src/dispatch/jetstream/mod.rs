//! Dispatch by way of NATS JetStream: many gateways submit, many agents lease, and either may come and go.
//!
//! Work is in one stream with work-queue retention, under a subject of its own; each tenant has a durable pull consumer,
//! whose `max_ack_pending` is the tenant's quota. Agents ask the consumers of tenants that gateways have announced, in
//! turn (`agent::fair_pull`), and keep what they hold by "in progress" acknowledgements. All else goes by core requests
//! from the agent to the gateway that has submitted: the outcome, and what does not fit into a message (large batches,
//! executables, contexts), each by an unguessable name that is in the work alone. The gateway acknowledges the work when
//! the outcome is dealt with.
//!
//! `gateway` and `agent` are the two sides. What both use: `connect` makes connections, `subjects` names things on the
//! servers, `streams` makes them, `messages` is what the sides send to each other, `worker_logs` carries what workers
//! print. `permissions` is what each role may do, `survey` what is on the servers.

mod agent;
mod connect;
mod gateway;
mod messages;
pub mod permissions;
mod streams;
mod subjects;
mod survey;
pub mod worker_logs;

pub use agent::{Cache, JetStreamWorkSource, announce, leave};
pub use connect::{Credentials, NatsOptions, Unconnected, connect};
pub use gateway::{JetStreamDispatcher, Unstarted};
#[cfg(fuzzing)]
pub use messages::fuzz;
pub use streams::{LEASE, Layout, ProvisionError};
pub use subjects::{Names, PREFIX};
pub use survey::{Survey, Work, survey};

#[cfg(test)]
#[path = "../../../tests/service/nats.rs"]
#[allow(dead_code, reason = "shared with tests of the service")]
mod nats;

#[cfg(test)]
mod tests;
