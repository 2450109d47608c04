//! What dispatch costs, without workers and without HTTP: batches through the embedded queue and through JetStream, beside a bare
//! request by JetStream of the same size on the same server (published and acknowledged, pulled, answered by a core message,
//! acknowledged), in turn; and how long a small tenant waits behind a large one.
//!
//!     nats-server -js &
//!     cargo run --release -p fastmap-service --example queue -- nats://127.0.0.1:4222 [BATCHES] [BYTES] [REPLICAS] [ROUNDS]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::{Client, HeaderMap};
use axum::body::Bytes;
use fastmap_backends::cloud::{Part, PartOutcome};
use fastmap_backends::{FunctionId, Payload, Results};
use fastmap_service::agent_registry::AgentRegistry;
use fastmap_service::config::slots;
use fastmap_service::dispatch::jetstream::{
    Cache, Credentials, JetStreamDispatcher, JetStreamWorkSource, Layout, Names, NatsOptions, connect,
};
use fastmap_service::dispatch::{
    Answered, BatchTask, Dispatch, Embedded, RunSpec, Task, Upload, Work, WorkOutcome, WorkSource,
};
use fastmap_service::pricing::Work as Limit;
use fastmap_service::run_log::RunLogs;
use futures_util::StreamExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// Requests under way, and who answers them.
const IN_FLIGHT: u64 = 32;
const WORKERS: usize = 4;
/// Nothing is lost here.
const LEASE: Duration = Duration::from_mins(10);

fn options(url: &str, inbox: &str) -> NatsOptions {
    let (credentials, inbox, name) = (Credentials::None, inbox.to_owned(), "bench".to_owned());
    NatsOptions {
        servers: url.split(',').map(str::to_owned).collect(),
        credentials,
        ca: None,
        certificate: None,
        inbox,
        name,
    }
}

fn work(account: i64, seq: u64, payload: &Bytes) -> Work {
    let spec = RunSpec {
        run: format!("run{account}"),
        account,
        executable: Upload::default(),
        identity: String::new(),
        function: FunctionId { offset: 0, name: "bench".to_owned() },
        context: None,
        label: None,
        items: None,
        item_timeout: None,
        locale: fastmap_backends::cloud::Locale::default(),
    };
    let limit = Limit { cpu: Duration::from_secs(1), bytes: 1 << 20 };
    let batch = BatchTask {
        seq,
        first: 0,
        items: 1,
        stride: None,
        payload: payload.clone(),
        enough: limit.bytes,
        level: None,
        limit,
        request: String::new(),
    };
    Work { spec: Arc::new(spec), task: Task::Batch(batch) }
}

/// Answers with what came, after so long. As an agent does, a worker goes on while its answer is on its way.
async fn echo(source: Arc<dyn WorkSource>, takes: Duration) {
    let places = Arc::new(Semaphore::new(slots(1)));
    while let Ok(lease) = source.lease().await {
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let Task::Batch(batch) = &lease.work.task else { continue };
        let results = Results { payload: Payload::from(batch.payload.to_vec()), ..Results::default() };
        let parts = vec![Part { offset: 0, items: 1, outcome: PartOutcome::Done(results) }];
        let answered = Answered { parts, cpu: Duration::ZERO, cut: false };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            source.answer(lease.id, WorkOutcome::Answered(answered)).await;
            drop(place);
        });
    }
}

/// Does something `count` times, `in_flight` at a time; gives what each took, and all of them.
async fn many<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    count: u64,
    in_flight: u64,
    one: impl Fn(u64) -> F + Send + Sync + 'static,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let (next, one, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(one), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (next, one) = (Arc::clone(&next), Arc::clone(&one));
        tasks.spawn(async move {
            let mut took = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return anyhow::Ok(took);
                }
                let begun = Instant::now();
                one(n).await?;
                took.push(begun.elapsed());
            }
        });
    }
    let mut all = Vec::new();
    while let Some(took) = tasks.join_next().await {
        all.extend(took??);
    }
    all.sort_unstable();
    Ok((all, begun.elapsed()))
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0
}

async fn submitted(dispatch: &Arc<dyn Dispatch>, work: Work) -> anyhow::Result<()> {
    match dispatch.submit(work).await?.outcome().await {
        WorkOutcome::Answered(_) => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

async fn through(
    dispatch: &Arc<dyn Dispatch>,
    batches: u64,
    payload: &Bytes,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let (dispatch, payload) = (Arc::clone(dispatch), payload.clone());
    many(batches, IN_FLIGHT, move |n| {
        let (dispatch, work) = (Arc::clone(&dispatch), work(1, n, &payload));
        async move { submitted(&dispatch, work).await }
    })
    .await
}

/// Requests by JetStream, with nothing around them.
struct Bare {
    client: Client,
    jetstream: async_nats::jetstream::Context,
    inbox: String,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>,
    _tasks: JoinSet<()>,
}

impl Bare {
    async fn start(url: &str, replicas: usize) -> anyhow::Result<Arc<Bare>> {
        let client = connect(&options(url, "bare")).await?;
        let worker = connect(&options(url, "bare_worker")).await?;
        let jetstream = async_nats::jetstream::new(client.clone());
        let stream = Config {
            name: "bare".to_owned(),
            subjects: vec!["bare.work.*".to_owned()],
            retention: RetentionPolicy::WorkQueue,
            num_replicas: replicas,
            ..Config::default()
        };
        let stream = jetstream.create_or_update_stream(stream).await.map(drop);
        stream?;
        let consumer = pull::Config {
            durable_name: Some("all".to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 1000,
            ..pull::Config::default()
        };
        let from = async_nats::jetstream::new(worker.clone());
        let consumer: PullConsumer = from.create_consumer_on_stream(consumer, "bare").await?;
        let (inbox, waiting) = (client.new_inbox(), Arc::<Mutex<HashMap<_, oneshot::Sender<()>>>>::default());
        let mut answers = client.subscribe(format!("{inbox}.*")).await?;
        let (mut tasks, told) = (JoinSet::new(), Arc::clone(&waiting));
        tasks.spawn(async move {
            while let Some(message) = answers.next().await {
                if let Some(waiting) = told.lock().expect("nobody panics").remove(message.subject.as_str()) {
                    let _gone = waiting.send(());
                }
            }
        });
        let mut messages = consumer.stream().max_messages_per_batch(IN_FLIGHT as usize).messages().await?;
        tasks.spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let to =
                    message.headers.as_ref().and_then(|headers| headers.get("To")).map(ToString::to_string);
                let answer = Bytes::from(message.payload.to_vec());
                let _gone = worker.publish(to.unwrap_or_default(), answer).await;
                let _gone = message.ack().await;
            }
        });
        Ok(Arc::new(Bare { client, jetstream, inbox, waiting, _tasks: tasks }))
    }

    async fn request(&self, n: u64, payload: Bytes) -> anyhow::Result<()> {
        let to = format!("{}.{n}", self.inbox);
        let (answered, answer) = oneshot::channel();
        self.waiting.lock().expect("nobody panics").insert(to.clone(), answered);
        let mut headers = HeaderMap::new();
        headers.insert("To", to.as_str());
        self.jetstream.publish_with_headers(format!("bare.work.{n}"), headers, payload).await?.await?;
        answer.await.context("no answer")
    }
}

async fn jetstream(
    url: &str,
    prefix: &str,
    replicas: usize,
) -> anyhow::Result<(Arc<dyn Dispatch>, Arc<dyn WorkSource>, tempfile::TempDir)> {
    let names = Names::new(prefix);
    let layout =
        Layout { names: names.clone(), replicas, quota: 256, lease: LEASE, patience: Layout::PATIENCE };
    let gateway = connect(&options(url, "gateway")).await?;
    let sender =
        JetStreamDispatcher::start(gateway, layout, AgentRegistry::default(), RunLogs::default()).await?;
    let folder = tempfile::tempdir()?;
    let agent = connect(&options(url, "agent")).await?;
    let cache = Cache::new(folder.path(), 0)?;
    let receiver = JetStreamWorkSource::start(agent, names, cache, IN_FLIGHT as usize).await?;
    Ok((Arc::new(sender), Arc::new(receiver), folder))
}

/// How long 40 batches of a small tenant take, alone and behind 10,000 of another: milliseconds at p50 and p99.
async fn fairness(url: &str) -> anyhow::Result<()> {
    let (dispatch, source, _folder) = jetstream(url, "fair", 1).await?;
    let payload = Bytes::from(vec![7; 1024]);
    let takes = Duration::from_millis(2);
    let mut agents = JoinSet::new();
    (0..WORKERS).for_each(|_| drop(agents.spawn(echo(Arc::clone(&source), takes))));
    let small = async |first: u64| {
        let (dispatch, payload) = (Arc::clone(&dispatch), payload.clone());
        many(40, 4, move |n| {
            let (dispatch, work) = (Arc::clone(&dispatch), work(2, first + n, &payload));
            async move { submitted(&dispatch, work).await }
        })
        .await
    };
    small(1_000_000).await?;
    let mut alone = Vec::new();
    for round in 0..5 {
        alone.extend(small(round * 100).await?.0);
    }
    let mut queued = Vec::new();
    for n in 0..10_000 {
        queued.push(dispatch.submit(work(1, n, &payload)).await?);
    }
    let mut behind = Vec::new();
    for round in 5..10 {
        behind.extend(small(round * 100).await?.0);
    }
    alone.sort_unstable();
    behind.sort_unstable();
    println!(
        "a small tenant: p50 {:.1} ms and p99 {:.1} ms alone, p50 {:.1} ms and p99 {:.1} ms behind 10,000 batches of another: {:.1} times",
        at(&alone, 0.5),
        at(&alone, 0.99),
        at(&behind, 0.5),
        at(&behind, 0.99),
        at(&behind, 0.99) / at(&alone, 0.99)
    );
    dispatch.end_run("run1").await;
    source.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let url = args.first().context("the address of a NATS server is missing")?;
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |text| text.parse());
    let (batches, bytes, replicas, rounds) =
        (number(1, 3000)?, number(2, 65_536)?, number(3, 1)?, number(4, 5)?);
    let payload = Bytes::from(vec![7; bytes as usize]);

    let bare = Bare::start(url, replicas as usize).await?;
    let (stream, from_stream, _folder) = jetstream(url, "bench", replicas as usize).await?;
    let embedded = Arc::new(Embedded::new(1000, LEASE));
    let in_process: Arc<dyn Dispatch> = Arc::clone(&embedded) as Arc<dyn Dispatch>;
    let mut agents = JoinSet::new();
    for _ in 0..WORKERS {
        agents.spawn(echo(Arc::clone(&from_stream), Duration::ZERO));
        agents.spawn(echo(Arc::clone(&embedded) as Arc<dyn WorkSource>, Duration::ZERO));
    }
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..=rounds {
        let (asking, sent) = (Arc::clone(&bare), payload.clone());
        let request = move |n| {
            let (bare, payload) = (Arc::clone(&asking), sent.clone());
            async move { bare.request(n, payload).await }
        };
        let measured = [
            many(batches, IN_FLIGHT, request).await?,
            through(&stream, batches, &payload).await?,
            through(&in_process, batches, &payload).await?,
        ];
        // The first round warms up.
        for (at, (took, all)) in measured.into_iter().enumerate().filter(|_| round > 0) {
            rates[at].push(batches as f64 / all.as_secs_f64());
            times[at].extend(took);
        }
    }
    let _flushed = bare.client.flush().await;
    println!("{bytes} bytes, {IN_FLIGHT} in flight, {replicas} replica(s), {rounds} rounds of {batches}:");
    for ((name, mut rates), mut times) in
        ["bare", "jetstream", "embedded"].into_iter().zip(rates.clone()).zip(times)
    {
        rates.sort_unstable_by(f64::total_cmp);
        times.sort_unstable();
        let (low, median, high) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
        println!(
            "{name:10} {median:6.0}/s ({low:.0} to {high:.0}), p50 {:.2} ms, p99 {:.2} ms",
            at(&times, 0.5),
            at(&times, 0.99)
        );
    }
    let mut ratios: Vec<f64> = rates[1].iter().zip(&rates[0]).map(|(ours, bare)| ours / bare).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    println!(
        "jetstream against bare: {:.2} ({:.2} to {:.2})",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
    fairness(url).await
}
