//! Findings about the service: whether the one that the environment names is there, takes the secret, has credits for
//! it, and agrees about the time.

use fastmap_backends::cloud::{Secret, ServiceUrl, check};
use fastmap_backends::{BackendError, in_credits};

use super::finding::{Finding, bad, fair, good, variable};
use crate::pricing;

pub(super) fn ask() -> Vec<Finding> {
    let (url, secret) = (variable("FASTMAP_CLOUD_URL"), variable("FASTMAP_SECRET"));
    let (url, secret) = match (url, secret) {
        (None, None) => {
            return vec![good("service", "none is named (FASTMAP_CLOUD_URL): maps run on this machine")];
        }
        (None, Some(_)) => {
            let advice = "export FASTMAP_CLOUD_URL, or unset the secret, or FASTMAP_EXEC_POLICY=local";
            return vec![bad("service", "a secret is set, but no FASTMAP_CLOUD_URL", advice)];
        }
        (Some(url), None) => {
            let advice = "export the secret that `fastmap token create` has shown";
            return vec![bad("token", format!("{url} is named, but no FASTMAP_SECRET"), advice)];
        }
        (Some(url), Some(secret)) => (url, secret),
    };
    let address: ServiceUrl = match url.parse() {
        Ok(address) => address,
        Err(error) => {
            let advice = "set FASTMAP_CLOUD_URL to https://HOST[:PORT], or to http:// on this machine";
            return vec![bad("service", format!("{error}"), advice)];
        }
    };
    let secret: Secret = match secret.parse() {
        Ok(secret) => secret,
        Err(error) => {
            let advice = "copy all of what `fastmap token create` has shown";
            return vec![bad("token", format!("FASTMAP_SECRET: {error}"), advice)];
        }
    };
    let reached = match check(&address, &secret) {
        Ok(reached) => reached,
        Err(BackendError::Unauthorized(why)) => {
            let advice = "ask who runs the service for a new one (`fastmap token create`); look whether the address is the right \
                          service's";
            return vec![good("service", format!("{url} answers")), bad("token", why, advice)];
        }
        Err(error) => {
            let advice = "look at FASTMAP_CLOUD_URL, whether the service runs (`fastmap serve`), and whether a firewall or proxy \
                          stands in the way";
            return vec![bad("service", error.to_string(), advice)];
        }
    };
    let auth = reached.auth;
    let own = env!("CARGO_PKG_VERSION");
    let ms = reached.took.as_secs_f64() * 1000.0;
    let found = format!("{url}, version {} (here {own}), answers in {ms:.0} ms", auth.server);
    let service = match auth.server.split(' ').any(|word| word.ends_with(own)) {
        true => good("service", found),
        false => {
            fair("service", found, "versions differ: what one has and the other has not is refused in words")
        }
    };
    let token = good("token", format!("good, of the account {}", auth.account));
    let credits = match auth.available > 0 {
        true => good(
            "credits",
            format!(
                "account {}: {}, {} of that not reserved",
                auth.account,
                in_credits(auth.balance),
                pricing::show(auth.available)
            ),
        ),
        false => bad(
            "credits",
            format!("account {} has none left", auth.account),
            "ask who runs the service for more (`fastmap credits add`)",
        ),
    };
    vec![service, token, credits, clock(reached.ahead)]
}

/// The service's clock is ahead by so many seconds.
fn clock(ahead: i64) -> Finding {
    let off = ahead.unsigned_abs();
    let found = format!("the service's is {off} s {}", if ahead < 0 { "behind" } else { "ahead" });
    match off {
        0..=5 => good("clock", "the same as the service's"),
        _ => {
            let advice = "set this machine's clock by NTP; until then requests go by the service's";
            fair("clock", found, advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_good_or_fair() {
        let advised = |ahead| (clock(ahead).good, clock(ahead).advice.is_some());
        assert_eq!(
            [0, -5, 6, -4000].map(advised),
            [(true, false), (true, false), (true, true), (true, true)]
        );
    }
}
