//! Dispatch by way of NATS JetStream: many gateways submit, many agents lease, and either may come and go.
//!
//! Work stands in one stream with work-queue retention, under a subject of its own; each tenant has a durable pull
//! consumer, whose `max_ack_pending` is the tenant's quota. Agents ask the consumers of tenants that gateways have told
//! them of, in turn (`turn`), and keep what they hold by "in progress" acknowledgements. All else goes by core
//! requests from the agent to the gateway that has submitted: the verdict, and what does not fit into a message (large
//! batches, executables, contexts), each by an unguessable name that stands in the work alone. The gateway acknowledges the
//! work when the verdict is dealt with.
//!
//! `connect` makes connections, `sender` is the gateway's side (`flights`: what waits for verdicts; `audit`: what the queue has
//! lost; `layout`: stream, consumers, buckets; `health`: whether it takes work), `receiver` the agent's (`turn`: whom to ask next; `held`: its leases; `files`: its
//! uploads; `inquiry`: its requests), `lines` carries what workers print, `wire` is what they say to each other, `registry` which agents there are, `permissions` what each role may do, `survey` what is there.

mod audit;
mod connect;
mod files;
mod flights;
mod health;
mod held;
mod inquiry;
mod layout;
pub mod lines;
pub mod permissions;
mod receiver;
pub mod registry;
mod sender;
mod survey;
mod turn;
mod wire;

pub use connect::{Credentials, NatsOptions, Unconnected, connect};
pub use files::Cache;
pub use layout::{Layout, Unmade};
pub use receiver::Receiver;
pub use sender::{Sender, Unstarted};
pub use survey::{Survey, Work, survey};

/// What names of streams, buckets and subjects begin with, where nothing else is said.
pub const PREFIX: &str = "fastmap";

/// The names of one service's things on a NATS account that others may share.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
    /// A `JetStream` domain other than the servers' own.
    domain: Option<String>,
}

impl Names {
    /// Names that begin so; letters, digits, `-` and `_` alone.
    pub fn new(prefix: &str) -> Self {
        Names { prefix: prefix.to_owned(), domain: None }
    }

    /// The same in a `JetStream` domain, of servers that a leaf node leads to; `None`: in that of the servers themselves.
    #[must_use]
    pub fn in_domain(self, domain: Option<String>) -> Self {
        Names { domain, ..self }
    }

    /// What requests to `JetStream` begin with.
    fn api(&self) -> String {
        self.domain.as_ref().map_or("$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
    }

    /// Where an agent of a role writes its entry: leaf nodes let buckets' own subjects pass to no other domain.
    fn agent(&self, role: &str, key: &str) -> String {
        let entry = format!("$KV.{}.{role}.{key}", self.agents());
        self.domain.as_ref().map_or(entry.clone(), |_| format!("{}.{entry}", self.api()))
    }

    /// The stream of all work.
    fn stream(&self) -> String {
        format!("{}_work", self.prefix)
    }

    /// A tenant's consumer.
    fn consumer(account: i64) -> String {
        format!("tenant_{account}")
    }

    /// Whose consumer that is.
    fn tenant(consumer: &str) -> Option<i64> {
        consumer.strip_prefix("tenant_")?.parse().ok()
    }

    /// Whether that is where work of that tenant is acknowledged: `$JS.ACK.STREAM.CONSUMER.…`, or with a domain and an
    /// account before the stream.
    fn is_ack(&self, subject: &str, account: i64) -> bool {
        let Some(rest) = subject.strip_prefix("$JS.ACK.") else { return false };
        let tokens: Vec<&str> = rest.split('.').collect();
        let (stream, consumer) = (self.stream(), Names::consumer(account));
        let at = |at: usize| tokens.get(at..at + 2).is_some_and(|found| found == [&*stream, &*consumer]);
        (tokens.len() == 7 && at(0)) || (tokens.len() >= 9 && at(2))
    }

    /// The bucket of agents.
    fn agents(&self) -> String {
        format!("{}_agents", self.prefix)
    }

    /// Where one piece of work stands: of that tenant and run, by that gateway, its `n`th. `*` stands for any.
    fn work(&self, account: &str, run: &str, gateway: &str, n: &str) -> String {
        format!("{}.work.{account}.{run}.{gateway}.{n}", self.prefix)
    }

    /// Where a gateway answers agents: about a flight, a file, or ([`wire::HERE`]) whether it is there.
    fn gateway(&self, gateway: &str, about: &str) -> String {
        format!("{}.gateway.{gateway}.{about}", self.prefix)
    }

    /// Gateways tell agents whose work there is.
    fn tenants(&self) -> String {
        format!("{}.tenants", self.prefix)
    }

    /// An agent asks gateways to tell it at once.
    fn join(&self) -> String {
        format!("{}.join", self.prefix)
    }

    /// A piece of work is wanted no more.
    fn revoked(&self) -> String {
        format!("{}.revoked", self.prefix)
    }

    /// A run is over.
    fn ended(&self) -> String {
        format!("{}.ended", self.prefix)
    }

    /// Lines that a run's workers print.
    fn lines(&self, run: &str) -> String {
        format!("{}.lines.{run}", self.prefix)
    }
}

/// What gateways and agents read of each other, for the fuzzers.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    wire::fuzz(bytes);
}

#[cfg(test)]
#[path = "../../../tests/service/nats.rs"]
#[allow(dead_code, reason = "shared with tests of the service")]
mod nats;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::nats::Nats;
    use super::*;
    use crate::dispatch::conformance::{self, Sides};
    use crate::dispatch::{Dispatch, Lessor};
    use crate::events::Events;
    use crate::roster::Roster;

    /// The inbox keeps the folder of its files.
    async fn sides(
        url: &str,
        prefix: &str,
        quota: usize,
        lease: Duration,
        folder: &std::path::Path,
    ) -> Sides {
        let options = |inbox: &str| NatsOptions {
            servers: vec![url.to_owned()],
            credentials: Credentials::None,
            ca: None,
            certificate: None,
            inbox: inbox.to_owned(),
            name: "test".to_owned(),
        };
        let names = Names::new(prefix);
        let layout =
            Layout { names: names.clone(), replicas: 1, quota, lease, patience: Duration::from_secs(1) };
        let gateway = connect(&options("gateway")).await.expect("a connection");
        let dispatch =
            Sender::start(gateway, layout, Roster::default(), Events::default()).await.expect("a gateway");
        let agent = connect(&options("agent")).await.expect("a connection");
        let cache = Cache::new(folder, 1 << 20).expect("a folder");
        let lessor = Receiver::start(agent, names, cache, 100).await.expect("an agent");
        Sides {
            dispatch: Arc::new(dispatch) as Arc<dyn Dispatch>,
            lessor: Arc::new(lessor) as Arc<dyn Lessor>,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn jetstream_keeps_what_dispatch_promises() {
        let (server, folder, made) =
            (Nats::start(), tempfile::tempdir().expect("a folder"), AtomicU32::new(0));
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
        let again = loop {
            tokio::select! {
                lease = &mut another => break lease,
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    sides.lessor.extend(kept.id).await;
                }
            }
        };
        assert_ne!(again.id, kept.id);
        assert!(sides.answer(&again).await && !sides.answer(&kept).await);
    }
}
