//! `fastmap dashboard`: asks a service, by a signed call, for a link that signs a browser in. The secret stays here.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use fastmap_backends::cloud::{
    DashboardLink, HEADER_DIGEST, HEADER_NONCE, HEADER_PROTOCOL, HEADER_SIGNATURE, HEADER_TIMESTAMP,
    PROTOCOL, Problem, RequestHead, ResponseHead, Secret, digest, hexadecimal,
};

use super::args::Dashboard;
use crate::keys::random;

const PATH: &str = "/api/v1/dashboard";
/// An answer comes within this.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn dashboard(args: &Dashboard) -> anyhow::Result<()> {
    let url = args.url.trim_end_matches('/');
    check_url(url)?;
    let secret: Secret = args.secret.parse().context("FASTMAP_SECRET")?;
    let link = ask(url, &secret)?;
    let address = format!("{url}{}", link.path);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()?;
    eprintln!("this link signs in once, within {} minutes", link.seconds / 60);
    if args.open {
        open::that_detached(&address).context("cannot start a browser; open the link by hand")?;
    }
    Ok(())
}

/// Who could read the link on its way would be signed in.
fn check_url(url: &str) -> anyhow::Result<()> {
    let uri: axum::http::Uri = url.parse().with_context(|| format!("FASTMAP_CLOUD_URL {url:?}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if loopback => Ok(()),
        Some("http") => {
            bail!("{url} is not on this machine: use https://, for what goes there must not be read")
        }
        _ => bail!("FASTMAP_CLOUD_URL {url:?} is no address of a service (like https://fastmap.example.org)"),
    }
}

fn ask(url: &str, secret: &Secret) -> anyhow::Result<DashboardLink> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let nonce = hexadecimal(&random::<16>()?);
    let (key, body_digest) = (secret.key(), digest(b""));
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let head =
        RequestHead { method: "POST", path: PATH, query: "", timestamp, nonce: &nonce, digest: &body_digest };
    let mut response = agent
        .post(format!("{url}{PATH}"))
        .header("authorization", format!("Bearer {}", secret.token()))
        .header(HEADER_PROTOCOL, PROTOCOL.to_string())
        .header(HEADER_TIMESTAMP, timestamp.to_string())
        .header(HEADER_NONCE, &nonce)
        .header(HEADER_DIGEST, &body_digest)
        .header(HEADER_SIGNATURE, key.sign_request(&head))
        .send_empty()
        .with_context(|| format!("cannot reach the service at {url}"))?;
    let status = response.status().as_u16();
    let signature = response.headers().get(HEADER_SIGNATURE).and_then(|value| value.to_str().ok());
    let signature = signature.unwrap_or_default().to_owned();
    let body = response.body_mut().with_config().limit(64 * 1024).read_to_vec()?;
    let head = ResponseHead { nonce: &nonce, status, run: "", seq: "", digest: &digest(&body) };
    // What is not signed may be anybody's.
    let signed = key.verify_response(&head, &signature);
    match status {
        401 if !signed => bail!("{url} does not know this secret"),
        _ if !signed => bail!("{url} answered {status}, not signed by the service: is it the right address?"),
        200 => serde_json::from_slice(&body).context("the service's answer can't be read"),
        _ => match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!("{url}: {problem}"),
            Err(_) => bail!("{url} answered {status}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_asked_for_in_the_open() {
        for good in ["https://a.example", "http://127.0.0.1:80", "http://[::1]:8750", "http://localhost:1"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["http://a.example", "http://127.0.0.1.example", "ftp://a", "a.example", "http://10.0.0.1"]
        {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
