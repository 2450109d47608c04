//! Findings about the queue: whether the one that the command line or the environment names has what gateways and
//! agents need.

use tokio::runtime::Builder;

use super::finding::{Finding, bad, fair, good};
use crate::cli::service_args::Nats;
use crate::dispatch::jetstream::{Work, connect, survey};

const NAME: &str = "queue";
/// From this version on, servers limit the consumers of a stream that sets no limit of its own.
const LIMITS: (u32, u32) = (2, 15);

pub(super) fn look(nats: &Nats) -> Vec<Finding> {
    match nats.options("gateway") {
        Ok(None) => return Vec::new(),
        Err(error) => return vec![bad(NAME, error.to_string(), "look at the --nats options")],
        Ok(Some(_)) => {}
    }
    let found = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
    vec![found.and_then(|runtime| runtime.block_on(ask(nats))).unwrap_or_else(|why| {
        let advice = "is JetStream on, may this user look at it (agents may not), and is it the gateway's \
                      (--nats-domain)?";
        bad(NAME, why, advice)
    })]
}

async fn ask(nats: &Nats) -> Result<Finding, String> {
    let options =
        nats.options("gateway").map_err(|error| error.to_string())?.ok_or("no servers are named")?;
    let client = connect(&options).await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    let found = survey(&client, &nats.names()).await?;
    let servers = format!("NATS {}", found.version);
    let Some(work) = found.work else {
        let advice = "the first gateway makes it; if one runs: is this its --nats-prefix, its JetStream \
                      (--nats-domain)?";
        return Ok(fair(NAME, format!("{servers}, no stream {}", found.stream), advice));
    };
    let Work { messages, consumers, most } = work;
    let limit = most.map_or("no limit".to_owned(), |most| format!("at most {most}"));
    let found =
        format!("{servers}, stream {}: {messages} messages, {consumers} consumers ({limit})", found.stream);
    let advice = format!(
        "each account of the last hour needs a consumer: start a gateway of this version, which sets the \
         stream's max_consumers to {} (without a limit of their own, streams of servers from 2.15 on have 1,000)",
        Work::MOST
    );
    Ok(match most {
        Some(most) if most >= Work::MOST => good(NAME, found),
        None if !limits(&client.server_info().version) => good(NAME, found),
        _ => bad(NAME, found, advice),
    })
}

/// Whether servers of that version limit what sets no limit. One that can't be read may.
fn limits(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= LIMITS,
        _ => true,
    }
}
