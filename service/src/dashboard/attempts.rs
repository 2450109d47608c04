//! Attempts to sign in, counted by network.

use std::net::IpAddr;
use std::num::NonZeroU32;

use axum::http::StatusCode;
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::page::Sorry;
use crate::app::connections::network;

/// Codes and forms that are no good that one address may send in a minute.
pub(super) const ATTEMPTS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");

/// Addresses that are remembered before those that have asked for nothing of late are forgotten.
pub(super) const ADDRESSES: usize = 10_000;

/// How often addresses have tried in vain to sign in. A good code is never counted nor refused: strangers may
/// share the address of the person that it was made for.
#[derive(Debug)]
pub(super) struct Attempts(RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>);

impl Default for Attempts {
    fn default() -> Self {
        Attempts(RateLimiter::hashmap(Quota::per_minute(ATTEMPTS)))
    }
}

impl Attempts {
    /// Counts an attempt in vain; gives what it is answered.
    pub(super) fn failed(&self, address: IpAddr, why: Sorry) -> Sorry {
        if self.0.len() > ADDRESSES {
            self.0.retain_recent();
        }
        match self.0.check_key(&network(address)) {
            Ok(()) => why,
            Err(_) => Sorry::new(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many attempts to sign in from your address; try again in a minute.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::dashboard::sign_in_page::used_up;

    #[test]
    fn attempts_are_counted_by_network_and_run_out() {
        let attempts = Attempts::default();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let refused = |text: &str| {
            let answer = attempts.failed(address(text), used_up()).into_response();
            answer.status() == StatusCode::TOO_MANY_REQUESTS
        };
        assert_eq!((0..100).filter(|_| !refused("2001:db8::1")).count(), 60);
        assert!(refused("2001:db8::2"), "the same network");
        assert!(!refused("2001:db8:0:1::2"));
        assert!(!refused("192.0.2.1"));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
