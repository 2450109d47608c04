//! `fastmap dashboard`: asks a service, by a signed call, for a link that signs a browser in. The secret stays here.

use std::io::Write;

use anyhow::Context;
use fastmap_backends::cloud::{Secret, ServiceUrl, dashboard_link};

use super::args::Dashboard;

pub(super) fn dashboard(args: &Dashboard) -> anyhow::Result<()> {
    let url: ServiceUrl = args.url.parse().context("FASTMAP_CLOUD_URL")?;
    let secret: Secret = args.secret.parse().context("FASTMAP_SECRET")?;
    let link = dashboard_link(&url, &secret)?;
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
