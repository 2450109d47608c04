//! Parsing of the service's address. Used by `Cloud::new` and by the check of the user's options.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ureq::http::Uri;

/// Address of a service: `https://` and a host, or `http://` and this machine; optionally a port and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    base: String,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    loopback: bool,
    secure: bool,
}

/// Reason why an address is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not the address of a service: {why}")]
pub struct UrlError {
    url: String,
    why: &'static str,
}

impl ServiceUrl {
    /// Returns whether the service is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for ServiceUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = |why| Err(UrlError { url: text.to_owned(), why });
        let base = text.trim().trim_end_matches('/');
        let Ok(uri) = base.parse::<Uri>() else {
            return wrong("it must be like https://fastmap.example.org");
        };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return wrong("it must begin with https:// (or http:// for this machine) and name a host");
        };
        if authority.as_str().contains('@') {
            return wrong("it must not hold a name or a password; the secret goes into FASTMAP_SECRET");
        }
        if authority.host().is_empty() || uri.query().is_some() || text.contains('#') {
            return wrong("it must be a host, a port if need be, and a path if need be, and no more");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let loopback = match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        let secure = match scheme {
            "https" => true,
            "http" if loopback => false,
            "http" => {
                return wrong(
                    "http:// is for this machine alone, as all could be read on the way; use https://",
                );
            }
            _ => return wrong("it must begin with https://, or with http:// for this machine"),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(ServiceUrl { base: base.to_owned(), host: host.to_owned(), port, loopback, secure })
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_accepted_for_loopback_only() {
        for good in [
            "http://127.0.0.1:8750",
            "http://localhost:8750/",
            "http://[::1]:1",
            "https://fastmap.example.org",
            "https://example.org:8443/fastmap/",
        ] {
            let url: ServiceUrl = good.parse().expect(good);
            assert!(!url.to_string().ends_with('/'), "{url}");
        }
        for bad in
            ["http://example.org", "http://10.0.0.1:8750", "http://127.0.0.1.example.org", "http://0.0.0.0:1"]
        {
            let error = bad.parse::<ServiceUrl>().expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains("use https://"), "{error}");
        }
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        for bad in [
            "",
            "example.org",
            "/path",
            "ftp://example.org",
            "https://",
            "https://user:word@example.org",
            "https://example.org?x=1",
            "https://example.org/#top",
            "https://exa mple.org",
        ] {
            assert!(bad.parse::<ServiceUrl>().is_err(), "{bad}");
        }
    }
}
