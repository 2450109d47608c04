//! Requests a link to the dashboard for a browser: the one call of the protocol that no map makes. Called by
//! `fastmap dashboard`.

use std::thread;
use std::time::Duration;

use super::http::{Http, TimeoutClass};
use super::protocol::DashboardLink;
use super::retry::{Backoff, RetryDecision, Service};
use super::sign::Secret;
use super::url::ServiceUrl;
use crate::model::error::BackendError;

/// Retries stop after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests a link that signs a browser in to the secret's account, once. Blocks until the answer arrives,
/// for some seconds if the service can't be reached.
///
/// # Errors
/// If the service can't be reached, does not know the secret, or refuses. The message is for users.
pub fn dashboard_link(url: &ServiceUrl, secret: &Secret) -> Result<DashboardLink, BackendError> {
    let http = Http::new(url.clone(), secret);
    let shown = http.url_and_proxy();
    let service = Service { url: &shown, token: http.token_prefix(), reached: false };
    let mut backoff = Backoff::default();
    loop {
        let failure = match http.call_json(TimeoutClass::Short, "POST", "/dashboard", None::<&()>) {
            Ok((link, _)) => return Ok(link),
            Err(failure) => failure,
        };
        let failing = backoff.record_failure(std::time::Instant::now(), failure.is_silence()).total;
        match service.decide(failure) {
            RetryDecision::Fail(error) => return Err(error),
            RetryDecision::Again(_, failure) if failing >= PATIENCE => {
                return Err(service.give_up(failing, failure));
            }
            RetryDecision::Again(requested, _) => thread::sleep(backoff.pause(requested, 128).min(PATIENCE)),
        }
    }
}
