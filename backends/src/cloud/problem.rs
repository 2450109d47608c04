//! Error answers of the service: RFC 9457 problem documents with stable codes. Created by the service's
//! gateway; the client decides by the code, and shows the detail.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $title:literal,)*) => {
        /// The code of a [`Problem`]: its name, its HTTP status and its title never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ProblemCode {
            $($(#[$doc])* $name,)*
        }

        impl ProblemCode {
            /// All codes.
            pub const ALL: &'static [ProblemCode] = &[$(ProblemCode::$name,)*];

            /// The code as it is written in the document.
            pub fn code(self) -> &'static str {
                match self { $(ProblemCode::$name => $code,)* }
            }

            /// The HTTP status of the answer.
            pub fn status(self) -> u16 {
                match self { $(ProblemCode::$name => $status,)* }
            }

            /// A short description, always the same.
            pub fn title(self) -> &'static str {
                match self { $(ProblemCode::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request is not one of the protocol: a header is missing or a parameter is of the wrong form.
    BadRequest = 400 "bad_request" "The request can't be understood",
    /// The client uses another version of the protocol.
    UnsupportedProtocol = 400 "unsupported_protocol" "Another version of the protocol",
    /// The body is not the one whose digest was signed.
    DigestMismatch = 400 "digest_mismatch" "The body is not the one that was signed",
    /// Unknown token. The answer is not signed.
    Unauthorized = 401 "unauthorized" "The token is not known",
    /// Invalid signature of the request. The answer is not signed.
    BadSignature = 401 "bad_signature" "The signature is wrong",
    /// The token was revoked.
    TokenRevoked = 401 "token_revoked" "The token was revoked",
    /// The token has expired.
    TokenExpired = 401 "token_expired" "The token has expired",
    /// The timestamp is more than 5 minutes off; `server_time` is the service's clock.
    ClockSkew = 401 "clock_skew" "The clocks differ by more than 5 minutes",
    /// This very request was received before, or its nonce was used.
    NonceRepeated = 401 "nonce_repeated" "The nonce was used before",
    /// The account has no credits left.
    OutOfCredits = 402 "out_of_credits" "The account is out of credits",
    /// The run has spent its `max_credits`.
    SpendCapReached = 402 "spend_cap_reached" "The run has reached its spend cap",
    /// Not found in this account.
    NotFound = 404 "not_found" "Not found",
    /// The answer of a batch was requested that is unknown, or no longer known: send the batch (again).
    BatchUnknown = 404 "batch_unknown" "The batch is not known; send it",
    /// The path exists, but only with other methods.
    MethodNotAllowed = 405 "method_not_allowed" "The method is not allowed here",
    /// The body did not arrive in time.
    RequestTimeout = 408 "request_timeout" "The body did not come in time",
    /// The batch was cancelled by its client, and has no charge of its own.
    BatchCancelled = 409 "batch_cancelled" "The batch was cancelled",
    /// The run is not open (any more).
    RunEnded = 409 "run_ended" "The run has ended",
    /// The seq was used for a different body.
    SeqConflict = 409 "seq_conflict" "The seq was used for another batch",
    /// The run's key was used for another run.
    KeyConflict = 409 "key_conflict" "The key was used for another run",
    /// The part does not start where the last one ended; `offset` says where to continue.
    UploadOffset = 409 "upload_offset" "The upload goes on at another offset",
    /// The answer was acknowledged, or its retention time has passed.
    ResultGone = 410 "result_gone" "The answer is no longer kept",
    /// More bytes than the limits allow.
    TooLarge = 413 "too_large" "Too many bytes",
    /// The body is not valid for this call.
    InvalidBody = 422 "invalid_body" "The body can't be read",
    /// The upload's content does not match its hash.
    HashMismatch = 422 "hash_mismatch" "The upload is not what its hash says",
    /// The upload is not an executable that can run at this service.
    NotExecutable = 422 "not_executable" "The file can't run here",
    /// The run's worker can't be started; `detail` says why.
    WorkerFailed = 422 "worker_failed" "The program can't work here",
    /// The function can't be prepared: its context or its `init` failed.
    SetupFailed = 422 "setup_failed" "The function could not be prepared",
    /// More requests than the limits allow.
    TooManyRequests = 429 "too_many_requests" "Too many requests",
    /// More batches in flight than the run may have, or more bytes of answers than the account may have kept.
    TooManyBatches = 429 "too_many_batches" "Too many batches in flight",
    /// More open runs than the account may have.
    TooManyRuns = 429 "too_many_runs" "Too many open runs",
    /// The remaining credits are reserved for running batches; try again when they have finished.
    CreditsHeld = 429 "credits_held" "The rest of the credits is reserved",
    /// The service's fault.
    Internal = 500 "internal" "The service failed",
    /// The service is about to stop; another one, or its restart, continues.
    ShuttingDown = 503 "shutting_down" "The service is shutting down",
    /// The agents that had the batch are gone; send it again.
    AgentLost = 503 "agent_lost" "The batch was lost on its way; send it again",
    /// The service's disk or database fails.
    Storage = 503 "storage" "The service can't store anything now",
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A problem document, `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:fastmap:problem:` and the code.
    pub r#type: String,
    /// The code's title.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The code, for programs.
    pub code: String,
    /// Details of this occurrence, for people.
    pub detail: String,
    /// Seconds after which the same request may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// With `clock_skew`: the service's clock, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<u64>,
    /// With `upload_offset`: number of bytes that the service has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// With `setup_failed`: how it failed, `panic` or `serialize`; `detail` is then the function's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Problem {
    /// A problem with this code.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Problem {
            r#type: format!("urn:fastmap:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.code().to_owned(),
            detail: detail.into(),
            retry_after: None,
            server_time: None,
            offset: None,
            failure: None,
        }
    }

    /// The code, if this version knows it.
    pub fn known(&self) -> Option<ProblemCode> {
        ProblemCode::ALL.iter().copied().find(|code| code.code() == self.code)
    }

    /// Sets the seconds after which to try again.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.detail, self.code, self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_documented() {
        let document = include_str!("../../../docs/protocol.md");
        for (index, code) in ProblemCode::ALL.iter().enumerate() {
            assert!(code.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert!(ProblemCode::ALL[..index].iter().all(|other| other.code() != code.code()), "{code}");
            let row = format!("| {} | `{code}` |", code.status());
            assert!(document.contains(&row), "docs/protocol.md has no row {row:?}");
        }
    }
}
