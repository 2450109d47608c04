//! Arguments of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::service_args::{Agent, Common, Nats, NatsPermissions, Serve};
use crate::pricing;
use crate::pricing::Microcredits;

/// Runs fastmap's cloud service, and keeps its accounts.
#[derive(Debug, Parser)]
#[command(name = "fastmap", version)]
pub struct Command {
    /// What to do.
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Run the service.
    Serve(Box<Serve>),
    /// Work for a service whose gateways are reached by way of NATS. Joins and leaves at any time; SIGTERM makes it
    /// finish or hand back what it has.
    Agent(Box<Agent>),
    /// Print what a NATS server's configuration must say to let gateways and agents in, each to what it needs alone.
    NatsPermissions(NatsPermissions),
    /// Make and see accounts.
    #[command(subcommand)]
    Account(Account),
    /// Make, see, revoke and replace the tokens that clients sign with.
    #[command(subcommand)]
    Token(Token),
    /// Give credits, and see what became of them.
    #[command(subcommand)]
    Credits(Credits),
    /// See runs.
    #[command(subcommand)]
    Runs(Runs),
    /// Copy an SQLite database to a file, also while the service runs. (Of PostgreSQL: `pg_dump`.) The key is not in it: keep
    /// `service.key`, too, and apart.
    Backup {
        /// The file; there must be none of that name.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Tell what a program under ADAPTIVE saw and decided, from the file that its `FASTMAP_TRACE` named.
    Explain {
        /// The file.
        trace: PathBuf,
    },
    /// See whether maps can run on this machine (it starts workers) and in the service of `FASTMAP_CLOUD_URL` and
    /// `FASTMAP_SECRET`, with what to do about what is wrong; with `--nats` at the queue as well. Fails if something is wrong.
    Doctor(Box<Doctor>),
    /// Get a link to the service's dashboard, for a browser. It signs in once, and within minutes.
    Dashboard(Dashboard),
}

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// This machine is to run `fastmap serve`: what that lacks is wrong, too.
    #[arg(long)]
    pub(super) serve: bool,
    /// Answer in JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) nats: Nats,
}

#[derive(Debug, Args)]
pub(super) struct Dashboard {
    /// The service.
    #[arg(long, env = "FASTMAP_CLOUD_URL")]
    pub(super) url: String,
    /// The secret; better in the environment than here, where others may see it.
    #[arg(long, env = "FASTMAP_SECRET", hide_env_values = true)]
    pub(super) secret: String,
    /// Open it in the browser, too.
    #[arg(long)]
    pub(super) open: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Account {
    /// Make an account.
    Create {
        /// Its name.
        name: String,
        /// What it has from the start.
        #[arg(long, default_value = "1000", value_parser = pricing::read)]
        credits: Microcredits,
        #[command(flatten)]
        common: Common,
    },
    /// See all accounts.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Make an account an operator's: its dashboard shows the service's agents.
    Operator {
        /// Its name.
        name: String,
        /// Make it an ordinary one again.
        #[arg(long)]
        no: bool,
        #[command(flatten)]
        common: Common,
    },
    /// See one account.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token. Its secret is shown now and never again.
    Create {
        /// The account's name.
        account: String,
        /// What to call it.
        #[arg(long, default_value = "")]
        label: String,
        /// Days after which it is worth nothing.
        #[arg(long)]
        days: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// See tokens; never their secrets.
    List {
        /// Only those of this account.
        account: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Make a token worthless, within a second.
    Revoke {
        /// Its number.
        id: i64,
        #[command(flatten)]
        common: Common,
    },
    /// Make a token in the place of another, which is revoked.
    Rotate {
        /// The number of the old one.
        id: i64,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Credits {
    /// Give an account credits; a negative number takes some away.
    Add {
        /// The account's name.
        account: String,
        /// How many.
        #[arg(allow_negative_numbers = true, value_parser = pricing::read)]
        amount: Microcredits,
        /// Why; it stands in the ledger.
        #[arg(long)]
        note: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// See an account's balance and the newest entries of its ledger.
    Show {
        /// The account's name.
        account: String,
        /// How many entries.
        #[arg(long, default_value_t = 20)]
        entries: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Compute all balances from the ledger again; fails if one is wrong.
    Audit {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Runs {
    /// See the newest runs.
    List {
        /// Only those of this account.
        account: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 20)]
        most: u32,
        #[command(flatten)]
        common: Common,
    },
    /// See one run.
    Show {
        /// Its name.
        run: String,
        #[command(flatten)]
        common: Common,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::service_args::Memory;

    #[test]
    fn an_account_has_the_memory_of_one_run_and_at_least_that_of_one_worker() {
        let memory = |worker: u64, account: Option<u64>| Memory { worker, account, workers: 2 }.account();
        assert_eq!(memory(1 << 24, None), 1 << 25);
        assert_eq!(memory(1 << 60, None), 1 << 60);
        assert_eq!(memory(1 << 24, Some(1 << 26)), 1 << 26);
    }

    #[test]
    fn the_page_of_options_has_those_of_the_service_and_of_agents_with_their_defaults_and_variables_and_no_others()
     {
        let page = include_str!("../../../docs/environment.md");
        let between = |from: &str, to: &str| {
            let (_, rest) = page.split_once(from).unwrap_or_else(|| panic!("{from} is missing"));
            rest.split_once(to).unwrap_or_else(|| panic!("{to} is missing")).0
        };
        let nats = between("\n### NATS\n", "\n## ");
        for (action, part) in [
            ("serve", between("\n## The service\n", "\n### Agents\n")),
            ("agent", between("\n### Agents\n", "\n### NATS\n")),
        ] {
            let page = format!("{part}{nats}");
            let mut command = Command::command();
            let command = command.find_subcommand_mut(action).expect("there is one");
            let options: Vec<_> = command
                .get_arguments()
                .filter(|option| option.get_id() != "help" && !option.is_hide_set())
                .collect();
            for option in &options {
                let name = option.get_long().expect("a long name");
                let default: Vec<_> = match option.get_action().takes_values() {
                    true => option.get_default_values().iter().map(|value| value.to_string_lossy()).collect(),
                    false => Vec::new(),
                };
                let default =
                    if default.is_empty() { String::new() } else { format!("`{}` ", default.join(",")) };
                let row = format!("| `--{name}` | {default}| ");
                assert!(page.contains(&row), "a row that begins with {row:?} is missing for {action}");
                if let Some(variable) = option.get_env() {
                    let variable = variable.to_string_lossy();
                    assert!(page.contains(&*variable), "{variable} is missing for {action}");
                }
            }
            let listed = page.lines().filter(|line| line.starts_with("| `--")).count();
            assert_eq!(listed, options.len(), "docs/environment.md has options that `{action}` has not");
        }
    }
}
