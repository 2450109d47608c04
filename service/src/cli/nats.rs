//! Options of NATS on the command line, and the permissions that a NATS server needs for this service.

use anyhow::{Context, bail};

use crate::cli::service_args::{Nats, NatsPermissions};
use crate::dispatch::jetstream::{Credentials, Names, NatsOptions, permissions};

/// The user that gateways are.
const GATEWAY: &str = "gateway";

impl Nats {
    /// How to reach the servers; `None`: none are named. `role`: who it is where nothing says so.
    ///
    /// # Errors
    /// If a user has no password.
    pub(super) fn options(&self, role: &str) -> anyhow::Result<Option<NatsOptions>> {
        if self.servers.is_empty() {
            return Ok(None);
        }
        let credentials = match (&self.nats_user, &self.nats_creds, &self.nats_nkey) {
            (Some(user), ..) => {
                let password = self.nats_password.clone();
                let password = password.context("--nats-user needs its password in FASTMAP_NATS_PASSWORD")?;
                Credentials::User(user.clone(), password)
            }
            (None, Some(file), _) => Credentials::File(file.clone()),
            (None, None, Some(file)) => Credentials::Nkey(file.clone()),
            (None, None, None) => Credentials::None,
        };
        let inbox = self.role(role);
        if let Some(odd) = inbox.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
            bail!("{inbox:?} can't be a role for {odd:?} in it; name one by --nats-role");
        }
        Ok(Some(NatsOptions {
            servers: self.servers.clone(),
            credentials,
            ca: self.nats_ca.clone(),
            certificate: self.nats_cert.clone().zip(self.nats_key.clone()),
            inbox,
            name: format!("fastmap {role} {}", env!("CARGO_PKG_VERSION")),
        }))
    }

    /// What the service's things on the servers are called.
    pub(super) fn names(&self) -> Names {
        self.names.names()
    }

    /// Who it is to the servers.
    pub(super) fn role(&self, role: &str) -> String {
        self.nats_role.as_deref().or(self.nats_user.as_deref()).unwrap_or(role).to_owned()
    }
}

/// Prints what the servers' configuration must say.
///
/// # Errors
/// If agents would be let in as a gateway.
pub(super) fn permissions(of: &NatsPermissions) -> anyhow::Result<()> {
    if of.agents.iter().any(|user| user == GATEWAY) {
        bail!("agents can't be the user {GATEWAY:?}, who may do everything");
    }
    let names = of.names.names();
    print!("{}", permissions::configuration(&names, &of.agents));
    Ok(())
}
