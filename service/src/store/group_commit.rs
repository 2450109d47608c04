//! Group commit: what many batches write goes to the database in one statement, for a commit costs more than what is
//! written in it. One task does so; it takes what waits, has it committed, and replies to each that asked.

use tokio::sync::{mpsc, oneshot};

use super::db::Conn;
use super::error::{Result, StoreError};
use super::ledger::{Reserve, Reserved, Settle, Settled};
use super::{Store, batch_statements, ledger};

/// Most that goes into one statement: each number of batches is a statement of its own, which the database keeps prepared.
const GROUP: usize = 32;
/// Operations that wait for the task; beyond that, callers wait for room in the queue.
const QUEUE: usize = 4096;

type Reply<T> = oneshot::Sender<Result<T>>;

enum Operation {
    Reserve(Reserve, Reply<Reserved>),
    /// With the digest of the request that must have reserved for the batch, if that matters.
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

    /// Reserves for a batch. A reservation that was made twice, because the first reply was lost, is one.
    ///
    /// # Errors
    /// If the database fails. Nothing is reserved then, unless PostgreSQL's connection is lost after the
    /// commit.
    pub async fn reserve(&self, ask: Reserve) -> Result<Reserved> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Operation::Reserve(ask, reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Charges for a batch, once: a second settlement finds no reservation.
    ///
    /// # Errors
    /// If the database fails. Nothing is charged then, unless PostgreSQL's connection is lost after the
    /// commit.
    pub async fn settle(&self, ask: Settle) -> Result<Settled> {
        self.settle_if(ask, None).await
    }

    /// Charges for a batch if the request of that digest has reserved for it. After a cancellation another
    /// request may have reserved under the same seq, for which this answer is wrong.
    ///
    /// # Errors
    /// As [`Committer::settle`].
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
    // Returns as soon as anything waits: a lone batch is not delayed, and groups grow by themselves while a
    // commit takes its time.
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
        // Settlements first: credits that they release may be the ones that a reservation of the same group
        // needs.
        if !settles.0.is_empty() {
            reply_all(settles.1, settle(&store, &settles.0).await);
        }
        if !reserves.0.is_empty() {
            reserve(&store, reserves.0, reserves.1).await;
        }
    }
}

async fn settle(store: &Store, asks: &[(Settle, Option<String>)]) -> Result<Vec<Settled>> {
    // The statement is a transaction of its own, with its triggers. If the process dies after its commit and
    // before the reply, the client sends the batch again and gets the stored answer.
    batch_statements::settle(&mut store.writer().await?.db(), asks).await
}

/// Reserves in one statement; for those that need a closer look, one after the other in a transaction.
async fn reserve(store: &Store, asks: Vec<Reserve>, replies: Vec<Reply<Reserved>>) {
    // One connection for both steps: to wait for the writer again would be to wait behind later ones.
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
            // Before the closer look at the others: these batches need not wait for its transaction.
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
    // One transaction for all of them: several commits would keep the next group waiting for longer.
    let mut tx = conn.begin().await?;
    // All accounts in one call: two calls in one transaction would lock them in an order of their own, and
    // could wait for a transaction that waits for this one.
    ledger::lock(&mut tx.db(), asks.iter().map(|ask| ask.account)).await?;
    let mut all = Vec::with_capacity(asks.len());
    for ask in asks {
        all.push(ledger::reserve(&mut tx.db(), gateway, ask).await?);
    }
    tx.commit().await?;
    Ok(all)
}

/// Sends the results. A caller may be gone; what it asked for was done all the same.
fn reply_all<T>(replies: Vec<Reply<T>>, done: Result<Vec<T>>) {
    match done {
        Ok(done) => replies.into_iter().zip(done).for_each(|(reply, done)| drop(reply.send(Ok(done)))),
        // A group is written as a whole or not at all: the error is that of each of its batches.
        Err(error) => replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
    }
}
