//! Names of streams, buckets and subjects.

/// What names of streams, buckets and subjects begin with, where nothing else is said.
pub const PREFIX: &str = "fastmap";

/// The names of one service's things on a NATS account that others may share.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
    /// A `JetStream` domain other than the servers' own.
    pub(crate) domain: Option<String>,
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
    pub(crate) fn api(&self) -> String {
        self.domain.as_ref().map_or("$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
    }

    /// Where an agent of a role writes its entry: leaf nodes let buckets' own subjects pass to no other domain.
    pub(crate) fn agent(&self, role: &str, key: &str) -> String {
        let entry = format!("$KV.{}.{role}.{key}", self.agents());
        self.domain.as_ref().map_or(entry.clone(), |_| format!("{}.{entry}", self.api()))
    }

    /// The stream of all work.
    pub(crate) fn stream(&self) -> String {
        format!("{}_work", self.prefix)
    }

    /// A tenant's consumer.
    pub(crate) fn consumer(account: i64) -> String {
        format!("tenant_{account}")
    }

    /// Whose consumer that is.
    pub(crate) fn tenant(consumer: &str) -> Option<i64> {
        consumer.strip_prefix("tenant_")?.parse().ok()
    }

    /// Whether that is where work of that tenant is acknowledged: `$JS.ACK.STREAM.CONSUMER.…`, or with a domain and an
    /// account before the stream.
    pub(crate) fn is_ack(&self, subject: &str, account: i64) -> bool {
        let Some(rest) = subject.strip_prefix("$JS.ACK.") else { return false };
        // Stream, consumer, and five numbers; newer servers put two tokens before them and may add one
        // behind.
        let tokens: Vec<&str> = rest.split('.').collect();
        let (stream, consumer) = (self.stream(), Names::consumer(account));
        let at = |at: usize| tokens.get(at..at + 2).is_some_and(|found| found == [&*stream, &*consumer]);
        (tokens.len() == 7 && at(0)) || (tokens.len() >= 9 && at(2))
    }

    /// The bucket of agents.
    pub(crate) fn agents(&self) -> String {
        format!("{}_agents", self.prefix)
    }

    /// Where one piece of work stands: of that tenant and run, by that gateway, its `n`th. `*` stands for any.
    pub(crate) fn work(&self, account: &str, run: &str, gateway: &str, n: &str) -> String {
        format!("{}.work.{account}.{run}.{gateway}.{n}", self.prefix)
    }

    /// Where a gateway answers agents: about an item of work, a file, or ([`super::messages::PING`]) whether it is there.
    pub(crate) fn gateway(&self, gateway: &str, about: &str) -> String {
        format!("{}.gateway.{gateway}.{about}", self.prefix)
    }

    /// Gateways announce to agents which tenants have work.
    pub(crate) fn tenants(&self) -> String {
        format!("{}.tenants", self.prefix)
    }

    /// An agent asks gateways for that at once.
    pub(crate) fn join(&self) -> String {
        format!("{}.join", self.prefix)
    }

    /// A piece of work is wanted no more.
    pub(crate) fn revoked(&self) -> String {
        format!("{}.revoked", self.prefix)
    }

    /// A run is over.
    pub(crate) fn ended(&self) -> String {
        format!("{}.ended", self.prefix)
    }

    /// Lines that a run's workers print.
    pub(crate) fn lines(&self, run: &str) -> String {
        format!("{}.lines.{run}", self.prefix)
    }
}
