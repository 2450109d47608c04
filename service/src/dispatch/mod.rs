//! Who hands batches to agents. The gateway submits work to a [`Dispatch`] and waits for its verdict; agents lease work
//! from a [`Lessor`], one tenant after the other, and answer it. The queue is never the system of record: what is lost
//! here is sent again by its client, and charged once by the ledger.
//!
//! `embedded` keeps all of it in this process and is both; `jetstream` is a queue that many gateways and agents share,
//! one on each side of it. Both pass `conformance`.

#[cfg(test)]
mod conformance;
mod embedded;
pub mod jetstream;
mod uses;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use fastmap_backends::FunctionId;
use fastmap_backends::cloud::{Locale, Part, Problem};
use log::LevelFilter;
use tokio::sync::{broadcast, oneshot};

use crate::price::Work as Limit;

pub use embedded::Embedded;
pub use uses::{Used, Uses};

/// What an agent must know of a run.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The run.
    pub run: String,
    /// Whose it is: tenants are taken in turn.
    pub account: i64,
    /// The executable, whole and checked.
    pub executable: Upload,
    /// What its workers must say that they are.
    pub identity: String,
    /// What to call.
    pub function: FunctionId,
    /// The encoded context, if there is one.
    pub context: Option<Upload>,
    /// The user's name for the map.
    pub label: Option<String>,
    /// Items in the input, if known.
    pub items: Option<u64>,
    /// An item that runs longer is given up.
    pub item_timeout: Option<Duration>,
    /// Time zone and language of its client's program.
    pub locale: Locale,
}

/// An upload that a run needs.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    /// Its SHA-256, in hexadecimal.
    pub hash: String,
    /// Where it lies on this machine; for an agent only after [`Lessor::lay_out`].
    pub path: PathBuf,
    /// It lies there as long as this is held.
    pub kept: Option<Arc<dyn Debug + Send + Sync>>,
}

/// Something for an agent to do.
#[derive(Clone, Debug)]
pub struct Work {
    /// The run it is of.
    pub spec: Arc<RunSpec>,
    /// What it is.
    pub task: Task,
}

/// What is to be done for a run.
#[derive(Clone, Debug)]
pub enum Task {
    /// See whether its program can work: start a worker.
    Check,
    /// Run a batch.
    Batch(BatchTask),
}

/// A batch, decompressed and known to be the items that it says.
#[derive(Clone, Debug)]
pub struct BatchTask {
    /// Its number in the run.
    pub seq: u64,
    /// Index in the input of the first item.
    pub first: u64,
    /// Number of items.
    pub items: u32,
    /// Bytes of each; `None`: a length stands before each.
    pub stride: Option<u32>,
    /// The items.
    pub payload: Bytes,
    /// Bytes of results after which no more of it is begun; the rest is returned.
    pub enough: u64,
    /// Up to which level its function logs, where its client has said that.
    pub level: Option<LevelFilter>,
    /// CPU time after which it is cut, and the most bytes that its answer may have.
    pub limit: Limit,
    /// The id of the request that has brought it, for the log.
    pub request: String,
}

/// What became of some work.
#[derive(Debug)]
pub enum Verdict {
    /// The run's program works.
    Ready,
    /// The batch is answered; the parts cover each of its items once.
    Answered(Answered),
    /// The run can't go on: its program can't work, or its function not be prepared.
    Failed(Problem),
    /// The run was ended meanwhile, or the batch cancelled.
    Cancelled,
    /// Agents have lost it too often.
    Lost,
    /// The queue has not taken it, for that reason in its own words.
    Refused(String),
}

/// An answered batch.
#[derive(Debug)]
pub struct Answered {
    /// What became of its items.
    pub parts: Vec<Part>,
    /// CPU time it took, as metered by the agent.
    pub cpu: Duration,
    /// It used up its CPU time and was cut.
    pub cut: bool,
}

/// Work in an agent's hands.
#[derive(Debug)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The work is given to another agent when nothing is heard of it for so long.
    pub lasts: Duration,
    /// What to do.
    pub work: Work,
    /// Who is told what the run's workers use beside batches.
    pub payer: Payer,
    /// Shows the lessor that the agent still has the lease: it is dropped with it. An agent that was stopped
    /// for longer than a lease could not extend it, and goes on with what it has.
    pub in_hand: Arc<()>,
}

/// Who is told what the workers of a run use beside batches, in dispatch's own words: a gateway, and a name of the run
/// there that only agents know which work on it. Empty where there is one gateway, in the same process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payer {
    /// The gateway.
    pub gateway: String,
    /// The run's name there.
    pub name: String,
}

/// Names a lease. An old one of work that was given to another agent is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// Why no work is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dispatch is closed")]
pub struct Closed;

/// Work that was taken. Dropping it says that its verdict is dealt with for good (charged and stored, or given up): a
/// queue that outlives this process forgets the work then, and not before.
#[derive(Debug)]
pub struct Submitted {
    verdict: oneshot::Receiver<Verdict>,
    _kept: Option<Box<dyn Debug + Send + Sync>>,
}

impl Submitted {
    /// Waits for the verdict; [`Verdict::Lost`] also where dispatch itself is gone. To be asked once.
    pub async fn verdict(&mut self) -> Verdict {
        (&mut self.verdict).await.unwrap_or(Verdict::Lost)
    }
}

/// Hands work to agents: the gateway's side.
#[async_trait]
pub trait Dispatch: Send + Sync + Debug {
    /// Takes work.
    ///
    /// # Errors
    /// If no work is taken any more.
    async fn submit(&self, work: Work) -> Result<Submitted, Closed>;

    /// The client of a batch wants no answer any more: it is answered by [`Verdict::Cancelled`] wherever it is, and its
    /// agent's lease is worth nothing. Nothing happens if it is not under way here.
    async fn cancel(&self, run: &str, seq: u64);

    /// A run is over: what of it waits or runs is answered by [`Verdict::Cancelled`], and agents are told.
    async fn end_run(&self, run: &str);

    /// The next report of CPU time that workers have used beside batches. Waits for one. `None`: there will be no more.
    async fn used(&self) -> Option<Used>;

    /// Why no work would be taken now, as far as is known.
    fn refuses(&self) -> Option<String> {
        None
    }

    /// Takes no more work.
    async fn close(&self);
}

/// What leases work to an agent: the agent's side.
#[async_trait]
pub trait Lessor: Send + Sync + Debug {
    /// The next work for an agent: of the tenant whose turn it is and who has not too much in agents' hands. Waits for
    /// some. May be given up at any time without losing any.
    ///
    /// # Errors
    /// When there will be no more.
    async fn lease(&self) -> Result<Lease, Closed>;

    /// Brings the uploads of a run that is leased to this machine, if they are not here, and says where they lie.
    ///
    /// # Errors
    /// If they can't be had. The work is to be given back.
    async fn lay_out(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable>;

    /// The agent still works on it. `false`: it is no longer the agent's, or no answer is waited for any
    /// more.
    async fn extend(&self, lease: LeaseId) -> bool;

    /// The agent is through with it. `false`: it is no longer the agent's, and nobody hears of this.
    async fn answer(&self, lease: LeaseId, verdict: Verdict) -> bool;

    /// The agent can't do it. Others get it at once; after too many have had it, it is lost.
    async fn give_back(&self, lease: LeaseId);

    /// Reports CPU time that workers of a run have used beside batches: before the first, between two, for one that was
    /// cancelled, behind the last. `Some(false)`: the run is over, or can't pay; it may use no more. `None`: the report did
    /// not arrive.
    async fn used(&self, payer: &Payer, run: &str, cpu: Duration) -> Option<bool>;

    /// Waits until a lease is no longer the agent's.
    async fn revoked(&self, lease: LeaseId);

    /// Runs that are over, from now on: agents end their workers. Who falls behind is told so, and looks for himself.
    fn ended_runs(&self) -> broadcast::Receiver<String>;

    /// Leases no more, and ends those who wait for some. What is leased may still be answered.
    async fn close(&self);
}

/// Why a run's uploads are not on this machine.
#[derive(Debug, thiserror::Error)]
#[error("an upload of the run can't be had")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);
