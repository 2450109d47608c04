//! The backend keeps what the trait `Backend` promises.

use fastmap_backends::cloud::{Cloud, CloudOptions};
use fastmap_backends::conformance::{self, Failed};

use crate::server::Server;

#[test]
fn the_cloud_keeps_its_promises() -> Result<(), Failed> {
    let server = Server::start(&[]);
    let secret = server.tenant("a", "1000").secret;
    let cloud = Cloud::new(CloudOptions::new(server.url.as_str(), secret)).expect("an address");
    conformance::check(cloud)?;
    server.audit();
    Ok(())
}
