//! JetStream keeps what dispatch promises, and what only it can get wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::nats::Nats;
use super::*;
use crate::agent_registry::AgentRegistry;
use crate::dispatch::conformance::{self, Sides};
use crate::dispatch::{Dispatch, WorkSource};
use crate::run_log::RunLogs;

/// The inbox keeps the folder of its files.
async fn sides(url: &str, prefix: &str, quota: usize, lease: Duration, folder: &std::path::Path) -> Sides {
    let options = |inbox: &str| NatsOptions {
        servers: vec![url.to_owned()],
        credentials: Credentials::None,
        ca: None,
        certificate: None,
        inbox: inbox.to_owned(),
        name: "test".to_owned(),
    };
    let names = Names::new(prefix);
    let layout = Layout { names: names.clone(), replicas: 1, quota, lease, patience: Duration::from_secs(1) };
    let gateway = connect(&options("gateway")).await.expect("a connection");
    let dispatch = JetStreamDispatcher::start(gateway, layout, AgentRegistry::default(), RunLogs::default())
        .await
        .expect("a gateway");
    let agent = connect(&options("agent")).await.expect("a connection");
    let cache = Cache::new(folder, 1 << 20).expect("a folder");
    let source = JetStreamWorkSource::start(agent, names, cache, 100).await.expect("an agent");
    Sides {
        dispatch: Arc::new(dispatch) as Arc<dyn Dispatch>,
        source: Arc::new(source) as Arc<dyn WorkSource>,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_keeps_what_dispatch_promises() {
    let (server, folder, made) = (Nats::start(), tempfile::tempdir().expect("a folder"), AtomicU32::new(0));
    conformance::all(async |quota, lease_time| {
        let prefix = format!("test{}", made.fetch_add(1, Ordering::Relaxed));
        sides(&server.url(), &prefix, quota, lease_time, folder.path()).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_an_agent_misses_is_made_by_the_gateway() {
    let (server, folder) = (Nats::start(), tempfile::tempdir().expect("a folder"));
    // Longer than anybody waits: the audit does not look.
    let lease = Duration::from_mins(10);
    let sides = sides(&server.url(), "test", 100, lease, folder.path()).await;
    let _submitted = sides.submit(1, "r", 0).await;
    let client = async_nats::connect(server.url()).await.expect("a connection");
    let stream = async_nats::jetstream::new(client).get_stream("test_work").await.expect("it is there");
    // As the server does it after an hour.
    stream.delete_consumer("tenant_1").await.expect("it is there");
    let lease = sides.lease().await;
    assert!(sides.answer(&lease).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_an_agent_keeps_for_ever_is_given_to_another() {
    let (server, folder) = (Nats::start(), tempfile::tempdir().expect("a folder"));
    let sides = sides(&server.url(), "test", 100, Duration::from_secs(1), folder.path()).await;
    let _submitted = sides.submit(1, "r", 0).await;
    let kept = sides.lease().await;
    // It says that it works on it, and never does.
    let mut another = std::pin::pin!(sides.lease());
    let mut again = loop {
        tokio::select! {
            lease = &mut another => break lease,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                sides.source.extend(kept.id).await;
            }
        }
    };
    assert_ne!(again.id, kept.id);
    // On a busy machine this lease can be over, too, before its answer is there.
    while !sides.answer(&again).await {
        again = sides.lease().await;
    }
    // The agent learns a moment later that the work is answered; until then its own outcome counts as a repetition.
    while sides.source.extend(kept.id).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!sides.answer(&kept).await);
}
