//! Whether a service can be reached and takes a secret: one signed request, made once. Called by `fastmap doctor`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::http::{By, Failure, Http};
use super::problem::ProblemCode;
use super::protocol::Auth;
use super::retry::{RetryDecision, Service, words};
use super::sign::Secret;
use super::url::ServiceUrl;
use crate::model::error::BackendError;

/// A service that has answered with its signature.
#[derive(Clone, Debug)]
pub struct Reached {
    /// What it says of itself and of the account.
    pub auth: Auth,
    /// How long that took, a new connection included.
    pub took: Duration,
    /// Seconds by which its clock is ahead of this one.
    pub ahead: i64,
}

/// Asks a service whether it takes this secret.
///
/// # Errors
/// If no answer comes, or none that is signed, or the service refuses: in words, with what to do.
pub fn check(url: &ServiceUrl, secret: &Secret) -> Result<Reached, BackendError> {
    let http = Http::new(url.clone(), secret);
    let ask = || http.ask::<Auth>(By::Short, "POST", "/auth", None::<&()>);
    let asked = ask().or_else(|failure| match failure {
        // By the service's clock from here on.
        Failure::Problem(problem) if problem.known() == Some(ProblemCode::ClockSkew) => ask(),
        other => Err(other),
    });
    let (auth, took) = asked.map_err(|failure| {
        let text = http.way();
        let service = Service { url: &text, token: http.token_begin(), reached: false };
        match service.then(failure) {
            RetryDecision::Fail(error) => error,
            RetryDecision::Again(_, failure) => BackendError::Cloud(
                format!("the service at {text} does not answer: {}", words(&failure)),
                None,
            ),
        }
    })?;
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ahead = auth.time as i64 - here as i64;
    Ok(Reached { auth, took, ahead })
}
