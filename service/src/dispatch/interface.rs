//! The two sides of dispatch as traits: the gateway's, which submits work, and the agent's, which leases it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, oneshot};

use super::uses::Used;
use super::work::{RunSpec, Work, WorkOutcome};

/// Work in an agent's hands.
#[derive(Debug)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The work is given to another agent when nothing is heard of it for so long.
    pub lasts: Duration,
    /// What to do.
    pub work: Work,
    /// Where the use of the run's workers beside batches is reported.
    pub payer: Payer,
    /// Shows the work source that the agent still has the lease: it is dropped with it. An agent that was stopped
    /// for longer than a lease could not extend it, and goes on with what it has.
    pub in_hand: Arc<()>,
}

/// Where the use of a run's workers beside batches is reported, in dispatch's own words: a gateway, and a name of the run
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

/// Work that was taken. Dropping it says that its outcome is dealt with for good (charged and stored, or given up): a
/// queue that outlives this process forgets the work then, and not before.
#[derive(Debug)]
pub struct PendingWork {
    pub(crate) outcome: oneshot::Receiver<WorkOutcome>,
    pub(crate) _kept: Option<Box<dyn Debug + Send + Sync>>,
}

impl PendingWork {
    /// Waits for the outcome; [`WorkOutcome::Lost`] also where dispatch itself is gone. To be asked once.
    pub async fn outcome(&mut self) -> WorkOutcome {
        (&mut self.outcome).await.unwrap_or(WorkOutcome::Lost)
    }
}

/// Hands work to agents: the gateway's side.
#[async_trait]
pub trait Dispatch: Send + Sync + Debug {
    /// Takes work.
    ///
    /// # Errors
    /// If no work is taken any more.
    async fn submit(&self, work: Work) -> Result<PendingWork, Closed>;

    /// The client of a batch wants no answer any more: it is answered by [`WorkOutcome::Cancelled`] wherever it is, and its
    /// agent's lease is worth nothing. Nothing happens if it is not under way here.
    async fn cancel(&self, run: &str, seq: u64);

    /// A run is over: what of it waits or runs is answered by [`WorkOutcome::Cancelled`], and agents are notified.
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
pub trait WorkSource: Send + Sync + Debug {
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
    async fn prepare_uploads(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable>;

    /// The agent still works on it. `false`: it is no longer the agent's, or no answer is waited for any
    /// more.
    async fn extend(&self, lease: LeaseId) -> bool;

    /// The agent is through with it. `false`: it is no longer the agent's, and the outcome is dropped.
    async fn answer(&self, lease: LeaseId, outcome: WorkOutcome) -> bool;

    /// The agent can't do it. Others get it at once; after too many have had it, it is lost.
    async fn nack(&self, lease: LeaseId);

    /// Reports CPU time that workers of a run have used beside batches: before the first, between two, for one that was
    /// cancelled, behind the last. `Some(false)`: the run is over, or can't pay; it may use no more. `None`: the report did
    /// not arrive.
    async fn used(&self, payer: &Payer, run: &str, cpu: Duration) -> Option<bool>;

    /// Waits until a lease is no longer the agent's.
    async fn revoked(&self, lease: LeaseId);

    /// Runs that are over, from now on: agents end their workers. A receiver that falls behind gets an error that says so, and looks for itself.
    fn ended_runs(&self) -> broadcast::Receiver<String>;

    /// Leases no more, and ends those who wait for some. What is leased may still be answered.
    async fn close(&self);
}

/// Why a run's uploads are not on this machine.
#[derive(Debug, thiserror::Error)]
#[error("an upload of the run is not available")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);
