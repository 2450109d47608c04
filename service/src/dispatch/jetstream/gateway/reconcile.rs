//! Reconciliation of a gateway's pending work with the queue. Servers that are killed may lose what they have
//! acknowledged (they write to the disk now and then), a stream may be deleted, an agent may end work that
//! another holds: missing work is submitted again, and missing consumers are made again. Work that dead
//! gateways have left is removed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::InfoError;
use futures_util::TryStreamExt;
use tokio::time::{Instant, interval};

use super::publisher::Shared;
use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::subjects::Names;

/// Time between two looks for work that dead gateways have left.
const ORPHANS: Duration = Duration::from_secs(30);
/// Looks in a row at which a gateway that is gone has not answered.
const SILENT: u32 = 2;
/// One that is there answers within this.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Never returns.
pub(super) async fn audit(shared: Arc<Shared>) {
    let lease = shared.layout.lease;
    let mut look = interval((lease / 2).clamp(Duration::from_millis(500), Duration::from_secs(10)));
    let mut orphans_at = Instant::now() + ORPHANS;
    let mut silent = HashMap::new();
    loop {
        look.tick().await;
        if shared.pending.waits_for(2 * lease)
            && let Err(error) = look_for_missing(&shared, 2 * lease).await
        {
            tracing::warn!(%error, "could not look whether the queue still has all batches");
            // The stream itself may be gone: it is made again, and the next look finds all work missing in
            // it.
            shared.consumers.forget();
            // It is tried again later.
            let _ = shared.layout.make(&shared.jetstream).await;
        }
        if shared.pending.waits_for(2 * lease)
            && let Err(error) = reassign_overdue(&shared).await
        {
            tracing::warn!(%error, "could not look whether agents keep batches for too long");
        }
        if Instant::now() >= orphans_at {
            orphans_at = Instant::now() + ORPHANS;
            if let Err(error) = remove_orphans(&shared, &mut silent).await {
                tracing::warn!(%error, "could not look for what other gateways have left in the queue");
            }
        }
    }
}

/// Gateway and number (the last two tokens) of each subject in the stream that matches.
async fn queued(shared: &Shared, subjects: String) -> Result<Vec<(String, String)>, async_nats::Error> {
    let stream = shared.jetstream.get_stream_no_info(shared.layout.names.stream()).await?;
    let subjects = stream.info_with_subjects(subjects).await?;
    let found: Vec<(String, usize)> = subjects.try_collect().await.map_err(|error: InfoError| error)?;
    let tail = |subject: &str| {
        let mut tokens = subject.rsplit('.');
        let n = tokens.next()?.to_owned();
        Some((tokens.next()?.to_owned(), n))
    };
    Ok(found.iter().filter_map(|(subject, _)| tail(subject)).collect())
}

async fn look_for_missing(shared: &Arc<Shared>, long: Duration) -> Result<(), async_nats::Error> {
    let mine = shared.layout.names.work("*", "*", &shared.gateway, "*");
    let there: HashSet<u64> =
        queued(shared, mine).await?.iter().filter_map(|(_, n)| n.parse().ok()).collect();
    // Work that was published after the question is not in the answer: its time since it was sent keeps it
    // from being counted.
    let missing = shared.pending.missing(long, |n| there.contains(&n));
    if !missing.is_empty() {
        // What has lost the messages may have lost the consumers, too.
        shared.consumers.forget();
    }
    for requeued in missing {
        shared.put_requeued(requeued).await;
    }
    Ok(())
}

/// Reassigns work that agents have kept for too long by "in progress" messages. Makes consumers that are
/// gone.
async fn reassign_overdue(shared: &Arc<Shared>) -> Result<(), async_nats::Error> {
    let layout = &shared.layout;
    let stream = shared.jetstream.get_stream_no_info(layout.names.stream()).await?;
    for account in shared.pending.tenants() {
        let consumer = match stream.consumer_info(Names::consumer(account)).await {
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {
                // The servers forget a consumer that no agent has asked for an hour, even if messages wait
                // for it.
                tracing::warn!(account, "a tenant's consumer is gone; it is made again");
                shared.make_consumer(account, Duration::ZERO).await;
                continue;
            }
            found => found?,
        };
        let delivered = consumer.delivered.stream_sequence;
        for overdue in shared.pending.overdue(account, delivered, layout.patience) {
            shared.reassign(overdue).await;
        }
    }
    Ok(())
}

async fn remove_orphans(shared: &Shared, silent: &mut HashMap<String, u32>) -> Result<(), async_nats::Error> {
    let names = &shared.layout.names;
    let stream = shared.jetstream.get_stream_no_info(names.stream()).await?.get_info().await?;
    // The usual case, for one question: all messages may be this gateway's own. If some of them are not, that
    // shows when its own are answered.
    if stream.state.messages <= shared.pending.len() as u64 {
        silent.clear();
        return Ok(());
    }
    let found = queued(shared, names.work("*", "*", "*", "*")).await?;
    let others: HashSet<String> =
        found.into_iter().map(|(gateway, _)| gateway).filter(|gateway| *gateway != shared.gateway).collect();
    silent.retain(|gateway, _| others.contains(gateway));
    for gateway in others {
        let request = shared
            .client
            .request(names.gateway(&gateway, messages::PING), messages::Request::Claim(0).encode());
        // Any answer will do: it shows that the process lives.
        if tokio::time::timeout(ANSWERS_WITHIN, request).await.is_ok_and(|answer| answer.is_ok()) {
            silent.remove(&gateway);
            continue;
        }
        let strikes = silent.entry(gateway.clone()).or_default();
        *strikes += 1;
        if *strikes >= SILENT {
            tracing::info!(gateway, "a gateway is gone; what it has left in the queue is taken away");
            let stream = shared.jetstream.get_stream_no_info(names.stream()).await?;
            // A gateway that only stood still for that time finds its work missing, and submits it again.
            stream.purge().filter(names.work("*", "*", &gateway, "*")).await?;
        }
    }
    Ok(())
}
