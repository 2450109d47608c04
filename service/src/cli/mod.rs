//! The command line. `serve` runs the service, `agent` works for one by way of NATS (`nats` is what both say of that); `dashboard` asks one for a link; `doctor` looks at this machine; the
//! others look at and change the database, also while the service runs.

mod admin;
mod agent;
mod args;
mod dashboard;
mod doctor;
mod logging;
mod nats;
mod output;
mod serve;

use std::path::Path;

use anyhow::{Context, bail};
use clap::Parser;
use fastmap_backends::adaptive::explain;
use fastmap_sandbox::jail::Scratch;
use nix::sys::stat::{Mode, umask};

pub use args::Command;

use crate::keys::ServiceKey;
use crate::store::Store;

/// The service's key, which must be the database's. A key is made only for a database that has none: where it
/// is lost, a new one would be of no use, and would stand where the old one is to be put back.
async fn open_key(store: &Store, path: &Path) -> anyhow::Result<ServiceKey> {
    if !path.exists() && store.is_claimed().await? {
        bail!(
            "the service's key {} is not there, and the tokens in the database were sealed with it: put it back \
             from its backup",
            path.display()
        );
    }
    let key = ServiceKey::open(path)?;
    store.claim(key.fingerprint()).await?;
    Ok(key)
}

/// Reads the arguments and does what they say. To be called first thing: a worker goes no further.
///
/// # Errors
/// What went wrong, for people.
pub fn main() -> anyhow::Result<()> {
    // `doctor` starts this program as workers, to see whether they come up.
    fastmap_backends::local::enter();
    let Command { action } = Command::parse();
    // What it makes is for its own user alone, whatever the mask was; what is for workers' users says so
    // itself.
    umask(Mode::from_bits_truncate(0o077));
    let runs_workers = matches!(action, args::Action::Serve(_) | args::Action::Agent(_));
    // Dropped last: nothing of the service runs any more.
    let _scratch = runs_workers.then(Scratch::begin).transpose().context("no folder for temporary files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match action {
        args::Action::Serve(serve) => runtime.block_on(serve::serve(serve)),
        args::Action::Agent(agent) => runtime.block_on(agent::agent(*agent)),
        args::Action::NatsPermissions(of) => nats::permissions(&of),
        args::Action::Account(account) => runtime.block_on(admin::account(account)),
        args::Action::Token(token) => runtime.block_on(admin::token(token)),
        args::Action::Credits(credits) => runtime.block_on(admin::credits(credits)),
        args::Action::Runs(runs) => runtime.block_on(admin::runs(runs)),
        args::Action::Backup { file, common } => runtime.block_on(admin::backup(&file, &common)),
        args::Action::Explain { trace } => {
            let account = explain(&trace).with_context(|| format!("the trace {}", trace.display()))?;
            print!("{account}");
            Ok(())
        }
        args::Action::Doctor(command) => doctor::doctor(&command),
        args::Action::Dashboard(dashboard) => dashboard::dashboard(&dashboard),
    }
}
