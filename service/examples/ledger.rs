//! What the ledger alone does: reserves and settles batches as gateways do it, and tells how many a second and how long one
//! waits. No HTTP, no workers. For docs/scaling.md; `scripts/bench ledger` runs it on both databases.
//!
//!     cargo run --release --example ledger -- DATABASE [GATEWAYS] [ACCOUNTS] [IN-FLIGHT] [BATCHES]
//!
//! DATABASE: `sqlite://FILE` or `postgres://…`, with nothing in it. In flight: batches of each gateway at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fastmap_backends::cloud::{FunctionName, OpenRun};
use fastmap_service::answer_files::Position;
use fastmap_service::pricing::{CREDIT, DEFAULT, Work};
use fastmap_service::store::{
    Committer, Database, NewRun, Reserve, Reserved, Settle, Settled, Store, Stored,
};

struct Run {
    account: i64,
    name: String,
}

async fn open_run(store: &Store, account: i64) -> anyhow::Result<Run> {
    let name = format!("run-{account}");
    let request = OpenRun {
        key: name.clone(),
        executable: String::new(),
        function: FunctionName { offset: 0, name: String::new() },
        context: None,
        label: None,
        items: None,
        item_timeout_ms: None,
        max_credits: None,
        locale: None,
    };
    let new =
        NewRun { account, id: &name, digest: "", request: &request, most_open: 9, lease_until_ms: i64::MAX };
    store.open_run(&new).await?;
    Ok(Run { account, name })
}

/// One batch: how long it waited to be reserved, and to be settled.
async fn batch(committer: &Committer, run: &Run, seq: i64) -> anyhow::Result<(Duration, Duration)> {
    let wanted = Work { cpu: Duration::from_secs(1), bytes: 1 << 16 };
    let digest = "0".repeat(64);
    let reserve = Reserve {
        account: run.account,
        run: run.name.clone(),
        seq,
        digest: digest.clone(),
        wanted,
        prices: DEFAULT,
        most_kept: u64::MAX,
    };
    let begun = Instant::now();
    let reserved = committer.reserve(reserve).await?;
    ensure!(matches!(reserved, Reserved::Granted(_)), "{reserved:?}");
    let held = begun.elapsed();
    let place = Position { file: 0, at: seq.unsigned_abs() << 16, length: 1 << 16 };
    let settle = Settle {
        run: run.name.clone(),
        seq,
        status: 200,
        charge: 1,
        cpu: Duration::from_millis(1),
        bytes: 1 << 16,
        items: 1,
        answer: Stored { digest, place },
    };
    let begun = Instant::now();
    ensure!(committer.settle(settle).await? == Settled::Charged, "it is held");
    Ok((held, begun.elapsed()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context("which database?")?;
    let database: Database = name.parse().map_err(anyhow::Error::msg)?;
    let mut number = |default: u64| args.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (gateways, accounts, in_flight, batches) = (number(1)?, number(1)?, number(64)?, number(20_000)?);
    let mut stores = Vec::new();
    for _ in 0..gateways {
        stores.push(Store::open(&database).await?);
    }
    let mut runs = Vec::new();
    for n in 0..accounts {
        let account = stores[0].create_account(&format!("a{n}"), 1_000_000 * CREDIT).await?;
        runs.push(open_run(&stores[0], account.id).await?);
    }
    let (runs, next) = (Arc::new(runs), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for store in &stores {
        let committer = Committer::start(store.clone());
        for _ in 0..in_flight {
            let (committer, runs, next) = (committer.clone(), Arc::clone(&runs), Arc::clone(&next));
            tasks.push(tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= batches {
                        return anyhow::Ok(waits);
                    }
                    let run = &runs[(n % runs.len() as u64) as usize];
                    waits.push(batch(&committer, run, n as i64).await?);
                }
            }));
        }
    }
    let mut waits = Vec::new();
    for task in tasks {
        waits.append(&mut task.await??);
    }
    let took = begun.elapsed().as_secs_f64();
    let wrong = stores[0].audit().await?;
    ensure!(wrong.is_empty(), "{wrong:?}");
    let middle = |of: fn(&(Duration, Duration)) -> Duration| {
        let mut times: Vec<Duration> = waits.iter().map(of).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    };
    println!(
        "{gateways} gateways, {accounts} accounts, {in_flight} in flight each: {:.0} batches/s, p50 {:.2} ms to reserve, {:.2} to settle",
        batches as f64 / took,
        middle(|wait| wait.0),
        middle(|wait| wait.1)
    );
    Ok(())
}
