//! Group commit: what many batches write goes to the database in one statement, for a commit costs more than what is
//! written in it. One task does so; it takes what waits, has it committed, and replies to each that asked.

use tokio::sync::{mpsc, oneshot};

use super::db::Conn;
use super::error::{Result, StoreError};
use super::ledger::{Reserve, Reserved, Settle, Settled};
use super::{Store, batch_statements, ledger};

/// Most that goes into one statement: each number of batches is a statement of its own, which the database keeps prepared.
const GROUP: usize = 32;
/// Most that waits; beyond, who asks waits to be let in.
const QUEUE: usize = 4096;

type Reply<T> = oneshot::Sender<Result<T>>;

enum Operation {
    Reserve(Reserve, Reply<Reserved>),
    /// Also which request must have reserved for it, if that matters.
    Settle(Settle, Option<String>, Reply<Settled>),
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
        self.settle_if(ask, None).await
    }

    /// Charges for a batch if the request of that digest has reserved for it: where it was cancelled, another may have come under
    /// its seq.
    ///
    /// # Errors
    /// If the database fails; nothing is charged then.
    pub async fn settle_for(&self, ask: Settle, request: String) -> Result<Settled> {
        self.settle_if(ask, Some(request)).await
    }

    async fn settle_if(&self, ask: Settle, request: Option<String>) -> Result<Settled> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Operation::Settle(ask, request, reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

async fn commit_all(store: Store, mut operations: mpsc::Receiver<Operation>) {
    let mut waiting = Vec::new();
    while operations.recv_many(&mut waiting, GROUP).await > 0 {
        metrics::histogram!("fastmap_commit_group").record(waiting.len() as f64);
        let (mut reserves, mut settles) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for operation in waiting.drain(..) {
            match operation {
                Operation::Reserve(ask, reply) => {
                    reserves.0.push(ask);
                    reserves.1.push(reply);
                }
                Operation::Settle(ask, request, reply) => {
                    settles.0.push((ask, request));
                    settles.1.push(reply);
                }
            }
        }
        // What is given back may be what the others need.
        if !settles.0.is_empty() {
            reply_all(settles.1, settle(&store, &settles.0).await);
        }
        if !reserves.0.is_empty() {
            reserve(&store, reserves.0, reserves.1).await;
        }
    }
}

async fn settle(store: &Store, asks: &[(Settle, Option<String>)]) -> Result<Vec<Settled>> {
    batch_statements::settle(&mut store.writer().await?.db(), asks).await
}

/// Reserves in one statement; for those that need a closer look, one after the other in a transaction.
async fn reserve(store: &Store, asks: Vec<Reserve>, replies: Vec<Reply<Reserved>>) {
    let mut conn = match store.writer().await {
        Ok(conn) => conn,
        Err(error) => return reply_all(replies, Err(error)),
    };
    let found = match batch_statements::reserve(&mut conn.db(), store.gateway, &asks).await {
        Ok(found) => found,
        Err(error) => return reply_all(replies, Err(error)),
    };
    let (mut closer, mut waiting) = (Vec::new(), Vec::new());
    for ((ask, reply), found) in asks.into_iter().zip(replies).zip(found) {
        match found {
            Some(reserved) => drop(reply.send(Ok(reserved))),
            None => {
                closer.push(ask);
                waiting.push(reply);
            }
        }
    }
    if !closer.is_empty() {
        reply_all(waiting, look_closer(&mut conn, store.gateway, &closer).await);
    }
}

async fn look_closer(conn: &mut Conn, gateway: i64, asks: &[Reserve]) -> Result<Vec<Reserved>> {
    let mut tx = conn.begin().await?;
    ledger::lock(&mut tx.db(), asks.iter().map(|ask| ask.account)).await?;
    let mut all = Vec::with_capacity(asks.len());
    for ask in asks {
        all.push(ledger::reserve(&mut tx.db(), gateway, ask).await?);
    }
    tx.commit().await?;
    Ok(all)
}

/// Whoever asked may be gone; what was asked is done all the same.
fn reply_all<T>(replies: Vec<Reply<T>>, done: Result<Vec<T>>) {
    match done {
        Ok(done) => replies.into_iter().zip(done).for_each(|(reply, done)| drop(reply.send(Ok(done)))),
        Err(error) => replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
    }
}
