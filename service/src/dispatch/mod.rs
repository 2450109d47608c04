//! Dispatch: hands batches to agents. The gateway submits work to a [`Dispatch`] and waits for its outcome; agents lease
//! work from a [`WorkSource`], one tenant after the other, and answer it. The queue is never the system of record: what is
//! lost here is sent again by its client, and charged once by the ledger.
//!
//! `interface` has both sides as traits, `work` what goes through them. `embedded` keeps all of it in this process and is
//! both sides; `jetstream` is a queue that many gateways and agents share, one on each side of it. Both pass
//! `conformance`. `uses` carries reports of CPU time that workers use beside batches.

#[cfg(test)]
mod conformance;
mod embedded;
mod interface;
pub mod jetstream;
mod uses;
mod work;

pub use embedded::Embedded;
pub use interface::{Closed, Dispatch, Lease, LeaseId, Payer, PendingWork, Unavailable, WorkSource};
pub use uses::{Used, Uses};
pub use work::{Answered, BatchTask, RunSpec, Task, Upload, Work, WorkOutcome};
