//! Cache of tokens' keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastmap_backends::cloud::SigningKey;
use fastmap_backends::unpoisoned::LockUnpoisoned;

use crate::clock::now_ms;

/// A revocation holds after this at the latest.
pub(crate) const TRUST: Duration = Duration::from_secs(1);

/// Most tokens whose keys are kept at hand.
pub(crate) const KEYS: usize = 10_000;

/// Keys of tokens, as the database had them a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Keys(Mutex<HashMap<String, (Instant, Arc<Known>)>>);

impl Keys {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<Known>)>> {
        self.0.lock_unpoisoned()
    }

    /// The token with this hash, if the database was asked for it within [`TRUST`].
    pub(crate) fn find(&self, hash: &str, now: Instant) -> Option<Arc<Known>> {
        let keys = self.lock();
        keys.get(hash)
            .filter(|(since, _)| now.duration_since(*since) < TRUST)
            .map(|(_, known)| Arc::clone(known))
    }

    /// Keeps a token that the database had at `now`.
    pub(crate) fn insert(&self, known: &Arc<Known>, now: Instant) {
        let mut keys = self.lock();
        if keys.len() >= KEYS {
            keys.retain(|_, (since, _)| now.duration_since(*since) < TRUST);
        }
        keys.insert(known.hash.to_string(), (now, Arc::clone(known)));
    }
}

/// A token and the key of its requests, as the database has them.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) hash: Arc<str>,
    pub(crate) token: i64,
    pub(crate) account: i64,
    pub(crate) name: String,
    pub(crate) key: SigningKey,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) revoked: bool,
}

impl Known {
    pub(crate) fn has_expired(&self) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= now_ms())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.revoked || self.has_expired()
    }
}
