//! Connection to NATS servers as the command line describes it: addresses, credentials, TLS. It reconnects by
//! itself, for ever, because each request has a deadline of its own.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};

/// Time limit of the first connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest pause before a lost server is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Messages that a subscriber may fall behind.
const BEHIND: usize = 1 << 16;

/// How to reach the servers.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `nats://host:port`, or `tls://`; one of a cluster is enough, several are better.
    pub servers: Vec<String>,
    /// User that the connection belongs to.
    pub credentials: Credentials,
    /// The authority that has signed the servers' certificates (PEM); `None`: the system's.
    pub ca: Option<PathBuf>,
    /// A certificate of its own and its key (PEM), where the servers ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Answers to requests come to subjects that begin with `_INBOX_` and this: what a role may subscribe to.
    pub inbox: String,
    /// What the servers' monitoring calls it.
    pub name: String,
}

/// User that a connection belongs to, and its proof.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// None: the servers take all connections.
    #[default]
    None,
    /// A user of the servers' configuration.
    User(String, String),
    /// A file with a JWT and a seed, as nsc writes it.
    File(PathBuf),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unconnected {
    /// What was said on the command line is no address.
    #[error("{0:?} is not an address of a NATS server")]
    Address(String, #[source] io::Error),
    /// A file can't be read, or is not what it should be.
    #[error("cannot use {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// No server lets it in.
    #[error("no NATS server at {0} accepts the connection")]
    Refused(String, #[source] async_nats::ConnectError),
}

/// Logs what happens to a connection. Each attempt in vain to connect again is an event, too.
fn log(event: &Event) {
    match event {
        Event::Disconnected => tracing::warn!("the connection to the NATS server is lost, trying on"),
        Event::ServerError(error) => tracing::warn!(%error, "the NATS server refuses"),
        Event::SlowConsumer(_) => tracing::warn!(%event, "messages of the NATS server are lost"),
        Event::Connected | Event::LameDuckMode | Event::Draining | Event::Closed | Event::ClientError(_) => {
            tracing::debug!(%event, "NATS");
        }
    }
}

/// Connects. Comes back when the first server has let it in.
///
/// # Errors
/// If none does within ten seconds, or a file is not what it should be.
pub async fn connect(options: &NatsOptions) -> Result<Client, Unconnected> {
    let addresses: Vec<ServerAddr> = options
        .servers
        .iter()
        .map(|server| server.parse().map_err(|error| Unconnected::Address(server.clone(), error)))
        .collect::<Result<_, _>>()?;
    let mut connecting = ConnectOptions::new()
        .name(&options.name)
        // The servers' permissions let a role subscribe to this inbox alone; with a common one, each could
        // read the answers to others.
        .custom_inbox_prefix(format!("_INBOX_{}", options.inbox))
        .connection_timeout(CONNECT)
        // A subscriber that falls behind further loses messages, which the log shows (`Event::SlowConsumer`).
        .subscription_capacity(BEHIND)
        // A server that is killed is back, or another is found, within some seconds: attempts follow quickly
        // at first.
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| AGAIN.min(Duration::from_millis(20 * attempts as u64)))
        .event_callback(|event| async move { log(&event) });
    if let Some(ca) = &options.ca {
        // An authority is named so that the servers prove who they are: a connection without TLS must not
        // pass.
        connecting = connecting.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &options.certificate {
        connecting = connecting.add_client_certificate(certificate.clone(), key.clone());
    }
    connecting = match &options.credentials {
        Credentials::None => connecting,
        Credentials::User(user, password) => connecting.user_and_password(user.clone(), password.clone()),
        Credentials::File(path) => {
            connecting.credentials_file(path).await.map_err(|error| Unconnected::File(path.clone(), error))?
        }
        Credentials::Nkey(path) => {
            let seed = std::fs::read_to_string(path);
            let seed = seed.map_err(|error| Unconnected::File(path.clone(), error))?;
            connecting.nkey(seed.trim().to_owned())
        }
    };
    let refused = |error| Unconnected::Refused(options.servers.join(", "), error);
    connecting.connect(addresses).await.map_err(refused)
}
