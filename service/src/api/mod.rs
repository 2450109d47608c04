//! Handlers of the protocol, of what operators ask for, and the work beside requests that keeps runs in order.
//!
//! `auth` is in front of every route of the protocol; `uploads` takes programs and contexts, `runs` opens and ends runs,
//! `batches` carries items in and answers out, `events` shows what happens in a run, `dashboard_links` makes links for
//! browsers. `run_lifecycle` renews leases, ends runs and forgets them; `usage` charges for what workers do beside
//! batches; `ops` is for operators. Money is the store's, work is dispatch's.

mod answers;
pub(crate) mod auth;
mod batch_refusals;
mod batch_task;
pub(crate) mod batches;
pub(crate) mod dashboard_links;
pub(crate) mod events;
pub(crate) mod ops;
mod partial_uploads;
mod run_lifecycle;
pub(crate) mod runs;
pub(crate) mod uploads;
mod usage;
