//! Sends batches to a service as fast as it answers, and tells how fast that was and where the time went: a line for
//! people, and one of JSON for benches/cloud.py. Certificates that it trusts stand in `SSL_CERT_FILE`.
//!
//!     fastmap serve --dev --insecure-no-sandbox      (and export the two lines it prints)
//!     cargo run --release --example load -- PATH-OF-fastmap-service-test-worker [BATCHES] [CLIENTS] [BYTES] [MILLISECONDS]
//!
//! With milliseconds a batch sleeps so long instead, and is a few bytes.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use fastmap_backends::cloud::{
    BatchBody, BlobStatus, FunctionName, OpenRun, RequestHead, RunOpened, Secret, digest, hexadecimal,
};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Request;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

struct Client {
    agent: Agent,
    url: String,
    secret: Secret,
}

impl Client {
    fn call(&self, method: &str, target: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = format!("/api/v1{path}");
        let nonce = hexadecimal(&fastmap_service::keys::random::<16>()?);
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let digest = digest(body);
        let head = RequestHead { method, path: &path, query, timestamp, nonce: &nonce, digest: &digest };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{target}", self.url))
            .header("authorization", format!("Bearer {}", self.secret.token()))
            .header("fastmap-timestamp", timestamp)
            .header("fastmap-nonce", &nonce)
            .header("fastmap-digest", &digest)
            .header("fastmap-signature", self.secret.key().sign_request(&head));
        let mut response = self.agent.run(request.body(body)?)?;
        let answer = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        match response.status().as_u16() {
            200..=202 => Ok(answer),
            status => bail!("{method} {target}: {status} {}", String::from_utf8_lossy(&answer)),
        }
    }

    fn upload(&self, bytes: &[u8]) -> anyhow::Result<String> {
        let hash = digest(bytes);
        let packed = zstd::bulk::compress(bytes, 1)?;
        let mut offset = 0;
        for part in packed.chunks(8 << 20) {
            let target = format!("/executables/{hash}?offset={offset}&total={}", packed.len());
            let status: BlobStatus = serde_json::from_slice(&self.call("PUT", &target, part)?)?;
            if status.present {
                break;
            }
            offset = status.offset;
        }
        Ok(hash)
    }
}

fn agent() -> anyhow::Result<Agent> {
    let mut tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        let pem = std::fs::read(path).context("SSL_CERT_FILE")?;
        let roots = parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        tls = tls.root_certs(RootCerts::from(roots));
    }
    let config = Agent::config_builder().http_status_as_error(false).max_idle_connections_per_host(64);
    Ok(config.tls_config(tls.build()).build().into())
}

/// Seconds a batch of each stage, from the service's own metrics: their sums over the batches that were counted.
fn stages(metrics: &str) -> Value {
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    };
    let mean = |name: &str, labels: &str| {
        value(&format!("{name}_sum{labels}")) / value(&format!("{name}_count{labels}")).max(1.0)
    };
    let of = |stage: &str| mean("fastmap_stage_seconds", &format!("{{stage=\"{stage}\"}}"));
    json!({
        "request": mean("fastmap_request_seconds", "{route=\"/api/v1/runs/{run}/batches/{seq}\"}"),
        "reserve": of("reserve"), "dispatch": of("dispatch"), "spool": of("spool"), "settle": of("settle"),
    })
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let worker = args.first().context("the path of fastmap-service-test-worker is missing")?;
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |text| text.parse());
    let (batches, clients, bytes) = (number(1, 2000)?, number(2, 4)?, number(3, 65_536)?);
    let mut item = match args.get(4) {
        Some(milliseconds) => format!("z{milliseconds}").into_bytes(),
        None => b"e".to_vec(),
    };
    if args.len() < 5 {
        item.resize(bytes as usize, b'x');
    }
    let client = Client {
        agent: agent()?,
        url: std::env::var("FASTMAP_CLOUD_URL").context("FASTMAP_CLOUD_URL")?,
        secret: std::env::var("FASTMAP_SECRET").context("FASTMAP_SECRET")?.parse()?,
    };
    let said = String::from_utf8(Command::new(worker).arg("describe").output()?.stdout)?;
    let offset = said.lines().find_map(|line| line.strip_prefix("obey ")).context("no function")?.parse()?;
    let open = OpenRun {
        key: hexadecimal(&fastmap_service::keys::random::<16>()?),
        executable: client.upload(&std::fs::read(worker)?)?,
        function: FunctionName { offset, name: "obey".to_owned() },
        context: None,
        label: Some("load".to_owned()),
        items: None,
        item_timeout_ms: None,
        max_credits: None,
        locale: None,
    };
    let run: RunOpened =
        serde_json::from_slice(&client.call("POST", "/runs", &serde_json::to_vec(&open)?)?)?;
    let mut payload = (item.len() as u32).to_le_bytes().to_vec();
    payload.append(&mut item);
    let body = BatchBody {
        first: 0,
        items: 1,
        stride: None,
        result_credit: 1 << 20,
        length: payload.len() as u64,
        compressed: false,
        level: None,
        payload: &payload,
    };
    let (body, next, begun) = (body.encode(), AtomicU64::new(0), Instant::now());
    let mut times = std::thread::scope(|scope| {
        let send = || -> anyhow::Result<Vec<Duration>> {
            let mut times = Vec::new();
            loop {
                let seq = next.fetch_add(1, Ordering::Relaxed);
                if seq >= batches {
                    return Ok(times);
                }
                let sent = Instant::now();
                client.call("PUT", &format!("/runs/{}/batches/{seq}", run.run), &body)?;
                times.push(sent.elapsed());
            }
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(send)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a panic")));
        joined.collect::<anyhow::Result<Vec<_>>>().map(|times| times.concat())
    })?;
    let took = begun.elapsed();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let (per_second, mean) = (
        batches as f64 / took.as_secs_f64(),
        times.iter().sum::<Duration>().as_secs_f64() * 1000.0 / times.len().max(1) as f64,
    );
    println!(
        "{batches} batches of {bytes} bytes by {clients} clients, {} workers: {per_second:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        run.workers,
        at(0.5),
        at(0.99)
    );
    client.call("POST", &format!("/runs/{}/done", run.run), b"")?;
    let metrics = client.agent.get(format!("{}/metrics", client.url)).call()?.body_mut().read_to_string()?;
    let told = json!({
        "per_second": per_second, "p50_ms": at(0.5), "p99_ms": at(0.99), "mean_ms": mean, "stages": stages(&metrics),
    });
    println!("{told}");
    Ok(())
}
