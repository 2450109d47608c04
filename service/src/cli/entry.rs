//! Entry of the program: reads the arguments and does what they say.

use anyhow::Context;
use clap::Parser;
use fastmap_backends::adaptive::explain;
use fastmap_sandbox::jail::Scratch;
use nix::sys::stat::{Mode, umask};

use super::args::Command;

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
    let runs_workers = matches!(action, super::args::Action::Serve(_) | super::args::Action::Agent(_));
    // Dropped last: nothing of the service runs any more.
    let _scratch = runs_workers.then(Scratch::begin).transpose().context("no folder for temporary files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match action {
        super::args::Action::Serve(serve) => runtime.block_on(super::serve::serve(serve)),
        super::args::Action::Agent(agent) => runtime.block_on(super::agent::agent(*agent)),
        super::args::Action::NatsPermissions(of) => super::nats::permissions(&of),
        super::args::Action::Account(account) => runtime.block_on(super::admin::account(account)),
        super::args::Action::Token(token) => runtime.block_on(super::admin::token(token)),
        super::args::Action::Credits(credits) => runtime.block_on(super::admin::credits(credits)),
        super::args::Action::Runs(runs) => runtime.block_on(super::admin::runs(runs)),
        super::args::Action::Backup { file, common } => {
            runtime.block_on(super::admin::backup(&file, &common))
        }
        super::args::Action::Explain { trace } => {
            let account = explain(&trace).with_context(|| format!("the trace {}", trace.display()))?;
            print!("{account}");
            Ok(())
        }
        super::args::Action::Doctor(command) => super::doctor::doctor(&command),
        super::args::Action::Dashboard(dashboard) => super::dashboard::dashboard(&dashboard),
    }
}
