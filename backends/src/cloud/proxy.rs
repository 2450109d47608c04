//! Proxy for the connection to a service, from the environment. The variables are read as curl reads them
//! (curl(1), "Environment"), because users set them once for all programs.

use std::fmt;
use std::net::IpAddr;

use ureq::Proxy;

use super::url::ServiceUrl;

/// Variables that name a proxy for `https://`; the first that is set and not empty wins. `http_proxy` is not
/// among them: it is for `http://`, which never leaves this machine.
const NAMES: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// A proxy and the variable that names it.
pub(super) struct NamedProxy {
    pub(super) proxy: Proxy,
    variable: &'static str,
}

impl fmt::Display for NamedProxy {
    /// The variable and the address, without the password that it may contain.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = self.proxy.uri();
        let scheme = uri.scheme_str().unwrap_or("http");
        write!(f, "{}={scheme}://{}:{}", self.variable, self.proxy.host(), self.proxy.port())
    }
}

/// The proxy for the service; `None` for a direct connection.
///
/// # Errors
/// If the variable that applies names an unusable proxy. The message names the variable.
pub(super) fn proxy_for(
    url: &ServiceUrl,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<NamedProxy>, String> {
    // Unencrypted requests must not leave the machine: loopback URLs ignore all proxies.
    if url.is_loopback() {
        return Ok(None);
    }
    let first = |names: &[&'static str]| {
        let set = |name: &&'static str| Some((*name, variable(name)?)).filter(|(_, value)| !value.is_empty());
        names.iter().find_map(set)
    };
    let Some((variable, value)) = first(&NAMES) else { return Ok(None) };
    let (host, port) = url.host_and_port();
    if first(&EXCEPTIONS).is_some_and(|(_, list)| is_excepted(&list, host, port)) {
        return Ok(None);
    }
    let value = value.trim();
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let unusable =
        |why: String| format!("{variable} {why}; set it to http://HOST:PORT, or put {host} into NO_PROXY");
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return Err(unusable(format!(
            "names a proxy of the kind {scheme:?}, which fastmap does not speak to"
        )));
    }
    let proxy = Proxy::new(&format!("{}://{rest}", scheme.to_ascii_lowercase()));
    // Never show the value: it may contain a password.
    match proxy {
        Ok(proxy) if has_valid_port(&proxy) => Ok(Some(NamedProxy { proxy, variable })),
        _ => Err(unusable("is not the address of a proxy".to_owned())),
    }
}

/// Returns whether the text after the host is a valid port: the library silently replaces an invalid one.
fn has_valid_port(proxy: &Proxy) -> bool {
    let authority = proxy.uri().authority().map_or("", |authority| authority.as_str());
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let after_host = host_and_port.rsplit(']').next().unwrap_or_default();
    !after_host.contains(':') || proxy.uri().port_u16().is_some()
}

/// Returns whether an entry of `NO_PROXY` matches the host. Entries are separated by commas or blanks.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    list.split([',', ' ', '\t', '\n'])
        .filter(|entry| !entry.is_empty())
        .any(|entry| is_host(entry, host, port))
}

/// An entry is `*`, a host, a domain (with or without a leading dot), an address, or a network like
/// 10.0.0.0/8. A host or an address may have a port, which must match then.
fn is_host(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let (entry, wanted) = split_port(entry);
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return is_in_network(entry, address);
    }
    let plain = |name: &str| name.trim_matches('.').to_ascii_lowercase();
    let (domain, host) = (plain(entry), plain(host));
    let before = host.strip_suffix(&domain).filter(|_| !domain.is_empty());
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Splits `host:port` or `[address]:port`; the colons of a bare IPv6 address do not start a port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    let (host, port) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => match entry.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (entry, None),
        },
    };
    match port.map(str::parse) {
        None => (host, None),
        Some(Ok(port)) => (host, Some(port)),
        Some(Err(_)) => (entry, None),
    }
}

/// Returns whether the address equals the entry or is in its network.
fn is_in_network(entry: &str, address: IpAddr) -> bool {
    let (network, length) = entry.split_once('/').map_or((entry, None), |(at, length)| (at, Some(length)));
    let Ok(network) = network.trim_matches(['[', ']']).parse::<IpAddr>() else { return false };
    let (differing, bits) = match (network, address) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits() ^ other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits(), 128),
        _ => return false,
    };
    match length.map_or(Ok(bits), str::parse::<u32>) {
        Ok(length) if length <= bits => differing.checked_shr(bits - length).unwrap_or(0) == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxy for `service` in an environment like `A=b;C=d`.
    fn chosen(service: &str, environment: &str) -> Result<Option<String>, String> {
        let set = |name: &str| {
            let mut pairs = environment.split(';').filter_map(|pair| pair.split_once('='));
            pairs.find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
        };
        let proxy = proxy_for(&service.parse().expect("an address"), set)?;
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn variables_are_read_as_by_curl() {
        const SERVICE: &str = "https://svc.test:8750";
        let p = Some("HTTPS_PROXY=http://p:3128");
        for (service, environment, wanted) in [
            (SERVICE, "", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128", p),
            (SERVICE, "HTTPS_PROXY=p:3128", p),
            (SERVICE, "HTTPS_PROXY=HTTP://p:3128", p),
            (SERVICE, "HTTPS_PROXY=http://p:3128/", p),
            (SERVICE, "HTTPS_PROXY=http://user:word@p:3128", p),
            (SERVICE, "HTTPS_PROXY=https://p", Some("HTTPS_PROXY=https://p:443")),
            (SERVICE, "https_proxy=http://p:3128", Some("https_proxy=http://p:3128")),
            (SERVICE, "https_proxy=http://p:3128;HTTPS_PROXY=http://q:1", Some("https_proxy=http://p:3128")),
            (SERVICE, "HTTPS_PROXY=http://p:3128;ALL_PROXY=http://q:1", p),
            (SERVICE, "HTTPS_PROXY=;ALL_PROXY=http://q:1", Some("ALL_PROXY=http://q:1")),
            (SERVICE, "http_proxy=http://q:1;HTTP_PROXY=http://q:1", None),
            ("http://127.0.0.1:8750", "HTTPS_PROXY=http://p:3128", None),
            ("https://localhost:8750", "HTTPS_PROXY=http://p:3128", None),
            // Exceptions.
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=localhost,svc.test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=localhost, svc.test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=localhost svc.test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;no_proxy=svc.test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=;no_proxy=svc.test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=SVC.Test.", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=.test", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=svc.test:8750", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=svc.test:443", p),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=*", None),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=est", p),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=.", p),
            (SERVICE, "HTTPS_PROXY=http://p:3128;NO_PROXY=a.svc.test", p),
            ("https://10.1.2.3", "HTTPS_PROXY=http://p:3128;NO_PROXY=10.0.0.0/8", None),
            ("https://10.1.2.3", "HTTPS_PROXY=http://p:3128;NO_PROXY=10.1.2.3:443", None),
            ("https://10.1.2.3", "HTTPS_PROXY=http://p:3128;NO_PROXY=11.0.0.0/8", p),
            ("https://10.1.2.3", "HTTPS_PROXY=http://p:3128;NO_PROXY=0.0.0.0/0", None),
            ("https://10.1.2.3", "HTTPS_PROXY=http://p:3128;NO_PROXY=2.3", p),
            ("https://[2001:db8::7]:8750", "HTTPS_PROXY=http://p:3128;NO_PROXY=2001:db8::/32", None),
            ("https://[2001:db8::7]:8750", "HTTPS_PROXY=http://p:3128;NO_PROXY=[2001:db8::7]", None),
            ("https://[2001:db8::7]:8750", "HTTPS_PROXY=http://p:3128;NO_PROXY=2001:db9::/32", p),
        ] {
            assert_eq!(
                chosen(service, environment),
                Ok(wanted.map(str::to_owned)),
                "{service} {environment}"
            );
        }
    }

    #[test]
    fn unusable_proxies_are_rejected_without_showing_the_password() {
        for wrong in
            ["socks5://user:word@p:1080", "ftp://user:word@p", "http://user:word@p:notaport", "http://"]
        {
            let error = chosen("https://svc.test", &format!("ALL_PROXY={wrong}")).expect_err(wrong);
            assert!(error.contains("ALL_PROXY") && error.contains("NO_PROXY"), "{error}");
            assert!(!error.contains("word"), "{error}");
        }
        // An excepted proxy need not be valid.
        let excepted = chosen("https://svc.test", "ALL_PROXY=socks5://p:1080;NO_PROXY=svc.test");
        assert_eq!(excepted, Ok(None));
    }
}
