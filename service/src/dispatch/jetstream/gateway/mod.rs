//! The gateway's side of work that goes through JetStream.
//!
//! `dispatcher` takes work, `publisher` puts it into the stream, answers agents and acknowledges, `pending` is the work
//! that waits for outcomes, `answered_items` that of which one was taken. Beside them run `reconcile`, which finds what the queue has lost or keeps too long,
//! `health_probe`, which tries servers that refuse work (`health`), and `agent_registry`, which follows the agents.

mod agent_registry;
mod answered_items;
mod dispatcher;
mod health;
mod health_probe;
mod pending;
mod pending_work;
mod publisher;
mod reconcile;

pub use dispatcher::{JetStreamDispatcher, Unstarted};
