//! Survey of a service's things on the servers, for their operator.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ContextBuilder, GetStreamErrorKind};

use crate::dispatch::jetstream::streams::CONSUMERS;
use crate::dispatch::jetstream::subjects::Names;

/// Servers that are there answer within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// The servers, and the stream of work on them.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The servers' version.
    pub version: String,
    /// The stream's name.
    pub stream: String,
    /// What the stream has and may have; `None`: there is no such stream.
    pub work: Option<Work>,
}

/// The stream of work.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Messages that wait, or are in agents' hands.
    pub messages: u64,
    /// Consumers: one for each account of the last hour.
    pub consumers: usize,
    /// Consumers that it may have; `None`: it sets no limit of its own.
    pub most: Option<i32>,
}

impl Work {
    /// [`Work::most`] as a gateway sets it.
    pub const MOST: i32 = CONSUMERS;
}

/// Looks at the servers.
///
/// # Errors
/// In words, if they do not answer or refuse.
pub async fn survey(client: &Client, names: &Names) -> Result<Survey, String> {
    let jetstream = ContextBuilder::new().timeout(PATIENCE).api_prefix(names.api()).build(client.clone());
    let (version, stream) = (client.server_info().version, names.stream());
    let work = match jetstream.get_stream(&stream).await {
        Ok(found) => {
            let info = found.cached_info();
            Some(Work {
                messages: info.state.messages,
                consumers: info.state.consumer_count,
                // The servers say -1 for a stream without a limit.
                most: Some(info.config.max_consumers).filter(|most| *most > 0),
            })
        }
        Err(error) => match error.kind() {
            // An answer, and not a failure: no gateway has made the stream yet.
            GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
            _ => return Err(error.to_string()),
        },
    };
    Ok(Survey { version, stream, work })
}
