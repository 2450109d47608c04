//! Caller of a request, and how its answer is signed: values that authentication and handlers exchange in extensions.

use std::sync::Arc;

use fastmap_backends::cloud::SigningKey;

use super::limits::BodyPermit;

/// Who asks. In the extensions of each request that comes to a handler.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The account's number.
    pub(crate) account: i64,
    /// The token's number.
    pub(crate) token: i64,
    /// The account's name.
    pub(crate) name: String,
    /// The request's nonce.
    pub(crate) nonce: String,
    /// SHA-256 of the request's body.
    pub(crate) digest: String,
    /// What signs answers to it.
    pub(crate) key: SigningKey,
    /// Counts the body's bytes, for as long as they are in memory.
    pub(crate) held: Arc<BodyPermit>,
    /// The token's SHA-256.
    pub(crate) token_hash: Arc<str>,
}

/// In the extensions of an answer whose parts are signed one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignsItself;

/// In the extensions of an answer whose body's SHA-256 is known already.
#[derive(Clone, Debug)]
pub(crate) struct BodyDigest(pub(crate) Arc<str>);
