//! Checks that a service can be reached and accepts a secret: one signed request, repeated only to correct
//! the clock. Called by `fastmap doctor`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::http::{Failure, Http, TimeoutClass};
use super::problem::ProblemCode;
use super::protocol::Auth;
use super::retry::{RetryDecision, Service, describe};
use super::sign::Secret;
use super::url::ServiceUrl;
use crate::model::error::BackendError;

/// A service that has answered with a valid signature.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The account, and the service's prices and limits.
    pub auth: Auth,
    /// Duration of the request, including a new connection.
    pub took: Duration,
    /// Seconds by which the service's clock is ahead of this machine's.
    pub ahead: i64,
}

/// Asks a service whether it accepts this secret.
///
/// # Errors
/// If there is no answer, no signed one, or a refusal. The message says what to do.
pub fn check(url: &ServiceUrl, secret: &Secret) -> Result<Reached, BackendError> {
    let http = Http::new(url.clone(), secret);
    let ask = || http.call_json::<Auth>(TimeoutClass::Short, "POST", "/auth", None::<&()>);
    let asked = ask().or_else(|failure| match failure {
        // `http` signs with the service's clock from here on.
        Failure::Problem(problem) if problem.known() == Some(ProblemCode::ClockSkew) => ask(),
        other => Err(other),
    });
    let (auth, took) = asked.map_err(|failure| {
        let text = http.url_and_proxy();
        let service = Service { url: &text, token: http.token_prefix(), reached: false };
        match service.decide(failure) {
            RetryDecision::Fail(error) => error,
            RetryDecision::Again(_, failure) => BackendError::Cloud(
                format!("the service at {text} does not answer: {}", describe(&failure)),
                None,
            ),
        }
    })?;
    let local_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ahead = auth.time as i64 - local_time as i64;
    Ok(Reached { auth, took, ahead })
}
