//! Group commit: what many batches write goes to the database in one transaction, for a transaction costs more than
//! what is written in it. One task does so; it takes what waits, commits it, and tells each who asked.

use sqlx::Connection;
use tokio::sync::{mpsc, oneshot};

use super::ledger::{self, Reserve, Reserved, Settle, Settled};
use super::{BEGIN, Result, Store, StoreError};

/// Most that goes into one transaction.
const GROUP: usize = 128;
/// Most that waits; beyond, who asks waits to be let in.
const QUEUE: usize = 4096;

enum Operation {
    Reserve(Reserve, oneshot::Sender<Result<Reserved>>),
    Settle(Settle, oneshot::Sender<Result<Settled>>),
}

/// Hands reservations and settlements to the task that commits them. Cheap to clone; the task ends with the last one.
#[derive(Clone, Debug)]
pub struct Committer(mpsc::Sender<Operation>);

impl Committer {
    /// Starts the task.
    pub fn start(store: Store) -> Self {
        let (sender, operations) = mpsc::channel(QUEUE);
        tokio::spawn(commit_all(store, operations));
        Committer(sender)
    }

    /// Reserves for a batch.
    ///
    /// # Errors
    /// If the database fails; nothing is reserved then.
    pub async fn reserve(&self, ask: Reserve) -> Result<Reserved> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Operation::Reserve(ask, reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Charges for a batch.
    ///
    /// # Errors
    /// If the database fails; nothing is charged then.
    pub async fn settle(&self, ask: Settle) -> Result<Settled> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Operation::Settle(ask, reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

async fn commit_all(store: Store, mut operations: mpsc::Receiver<Operation>) {
    let mut group = Vec::new();
    while operations.recv_many(&mut group, GROUP).await > 0 {
        metrics::histogram!("fastmap_commit_group").record(group.len() as f64);
        commit(&store, std::mem::take(&mut group)).await;
    }
}

/// What is told once the transaction is committed, or has failed.
enum Told {
    Reserved(oneshot::Sender<Result<Reserved>>, Reserved),
    Settled(oneshot::Sender<Result<Settled>>, Settled),
}

async fn commit(store: &Store, group: Vec<Operation>) {
    let mut told = Vec::with_capacity(group.len());
    let mut waiting = group.into_iter();
    let done = attempt(store, &mut waiting, &mut told).await;
    // Whoever asked may be gone; what was asked is done all the same.
    for told in told {
        let _gone = match told {
            Told::Reserved(reply, reserved) => reply.send(done.clone().map(|()| reserved)).is_ok(),
            Told::Settled(reply, settled) => reply.send(done.clone().map(|()| settled)).is_ok(),
        };
    }
    let Err(error) = done else { return };
    for operation in waiting {
        let _gone = match operation {
            Operation::Reserve(_, reply) => reply.send(Err(error.clone())).is_ok(),
            Operation::Settle(_, reply) => reply.send(Err(error.clone())).is_ok(),
        };
    }
}

async fn attempt(
    store: &Store,
    waiting: &mut std::vec::IntoIter<Operation>,
    told: &mut Vec<Told>,
) -> Result<()> {
    let mut conn = store.writer().await;
    let mut tx = conn.begin_with(BEGIN).await?;
    for operation in waiting.by_ref() {
        match operation {
            Operation::Reserve(ask, reply) => match ledger::reserve(&mut tx, &ask).await {
                Ok(reserved) => told.push(Told::Reserved(reply, reserved)),
                Err(error) => {
                    let _gone = reply.send(Err(error.clone()));
                    return Err(error);
                }
            },
            Operation::Settle(ask, reply) => match ledger::settle(&mut tx, &ask).await {
                Ok(settled) => told.push(Told::Settled(reply, settled)),
                Err(error) => {
                    let _gone = reply.send(Err(error.clone()));
                    return Err(error);
                }
            },
        }
    }
    tx.commit().await?;
    Ok(())
}
