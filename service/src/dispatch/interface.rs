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
    /// The work is given to another agent when the lease is not extended for this time.
    pub lasts: Duration,
    /// What to do.
    pub work: Work,
    /// Gateway that CPU time of the run's workers beside batches is reported to.
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

/// Names a lease. After its work was given to another agent it names none.
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
    /// Waits for the outcome; [`WorkOutcome::Lost`] also if dispatch itself is gone. To be called once.
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

    /// Cancels a batch whose client wants no answer any more: it is answered by [`WorkOutcome::Cancelled`],
    /// whether it waits or an agent has it, and its agent's lease ends. Does nothing if the batch is not
    /// under way here.
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
    /// The next work for an agent: of the tenant whose turn it is and whose quota is not used up. Waits for
    /// work. The future may be dropped at any time, and no work is lost with it.
    ///
    /// # Errors
    /// When there will be no more.
    async fn lease(&self) -> Result<Lease, Closed>;

    /// Fetches the uploads of a leased run, if they are not on this machine, and returns the run's
    /// description with their paths.
    ///
    /// # Errors
    /// If they are not available. The work is to be given back.
    async fn prepare_uploads(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable>;

    /// Extends a lease: the agent still works on it. `false`: the lease has ended, or the outcome is not
    /// wanted any more.
    async fn extend(&self, lease: LeaseId) -> bool;

    /// Delivers the outcome, and ends the lease. `false`: the lease had ended, or the outcome is not wanted;
    /// it is dropped. `true` also where another agent's outcome of the same work was taken before: the service has
    /// repeated the work, and does not charge for it twice.
    async fn answer(&self, lease: LeaseId, outcome: WorkOutcome) -> bool;

    /// Gives work back that the agent can't do. Others get it at once; after five agents have had it, it is
    /// answered as lost.
    async fn nack(&self, lease: LeaseId);

    /// Reports CPU time that workers of a run have used beside batches: before the first, between two, for one that was
    /// cancelled, behind the last. `Some(false)`: the run is over, or can't pay; it may use no more. `None`: the report did
    /// not arrive.
    async fn used(&self, payer: &Payer, run: &str, cpu: Duration) -> Option<bool>;

    /// Waits until a lease is no longer the agent's.
    async fn revoked(&self, lease: LeaseId);

    /// Runs that end from now on, whose workers agents end. A receiver that falls behind gets an error that
    /// says so.
    fn ended_runs(&self) -> broadcast::Receiver<String>;

    /// Ends the calls of `lease` that wait for work. What is leased may still be answered.
    async fn close(&self);
}

/// Why a run's uploads are not on this machine.
#[derive(Debug, thiserror::Error)]
#[error("an upload of the run is not available")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);
