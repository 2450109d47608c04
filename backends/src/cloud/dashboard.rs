//! The one call of the protocol that no map makes: a link for a browser. Called by `fastmap dashboard`.

use std::thread;
use std::time::Duration;

use super::http::{By, Http};
use super::protocol::DashboardLink;
use super::retry::{Backoff, RetryDecision, Service};
use super::sign::Secret;
use super::url::ServiceUrl;
use crate::model::error::BackendError;

/// It is tried again up to here where that makes sense.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a service for a link that signs a browser in to the secret's account, once. Waits for the answer, some seconds
/// where the service can't be reached.
///
/// # Errors
/// If the service can't be reached, does not know the secret or refuses, in words for people.
pub fn dashboard_link(url: &ServiceUrl, secret: &Secret) -> Result<DashboardLink, BackendError> {
    let http = Http::new(url.clone(), secret);
    let shown = http.way();
    let service = Service { url: &shown, token: http.token_begin(), reached: false };
    let mut backoff = Backoff::default();
    loop {
        let failure = match http.ask(By::Short, "POST", "/dashboard", None::<&()>) {
            Ok((link, _)) => return Ok(link),
            Err(failure) => failure,
        };
        let failing = backoff.fails(std::time::Instant::now(), failure.is_silence()).total;
        match service.then(failure) {
            RetryDecision::Fail(error) => return Err(error),
            RetryDecision::Again(_, failure) if failing >= PATIENCE => {
                return Err(service.give_up(failing, failure));
            }
            RetryDecision::Again(wish, _) => thread::sleep(backoff.pause(wish, 128).min(PATIENCE)),
        }
    }
}
