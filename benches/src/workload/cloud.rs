//! CLOUD: what the way to a service costs, where the service has as many workers and is on the same machine.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fastmap::{ExecPolicy, FastmapConfig, Options, Verbosity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::start::median;
use crate::contestant::WORKERS;
use crate::functions::{Spin, Work as _, turns};
use crate::measure::{Entry, Method, rounds, seconds};
use crate::report::{Goal, Section, Target, cell};

/// Items of 1 ms: 10 s of work.
const ITEMS: u64 = 10_000;
const ITEMS_QUICK: u64 = 2_000;

/// A service on loopback, which ends with this.
#[derive(Debug)]
pub(crate) struct Service {
    process: Child,
    /// Held open: a service whose words nobody takes any more ends at the next one.
    _words: ChildStdout,
}

impl Service {
    /// The service with so many workers, the secret of an account, and its address.
    ///
    /// # Errors
    /// If it can't be started.
    pub(crate) fn start(workers: usize) -> Result<(Service, String, String), String> {
        let bench = std::env::current_exe().map_err(|error| error.to_string())?;
        let path = bench.with_file_name("fastmap");
        let mut child = Command::new(&path)
            .args(["serve", "--dev", "--log", "error", "--workers", &workers.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!("{}: {error}; cargo build --release -p fastmap-service", path.display())
            })?;
        let stdout = child.stdout.take().expect("it is piped");
        // Byte by byte: what stands behind the two lines stays in the pipe.
        let mut words = BufReader::with_capacity(1, stdout);
        let mut value = |name: &str| {
            let mut line = String::new();
            words.read_line(&mut line).map_err(|error| error.to_string())?;
            let value = line.trim_end().strip_prefix(name).map(str::to_owned);
            value.ok_or(format!("{line:?} instead of {name}"))
        };
        let values = value("export FASTMAP_SECRET=")
            .and_then(|secret| Ok((secret, value("export FASTMAP_CLOUD_URL=")?)));
        let service = Service { process: child, _words: words.into_inner() };
        let (secret, url) = values?;
        Ok((service, secret, url))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Asked, and not killed: its temporary data goes with it.
        let _gone = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let _gone = self.process.wait();
    }
}

fn pass(config: &FastmapConfig, items: u64, turns: u64) {
    let results = config.fastmap(Spin::call, (0..items).map(move |_| turns));
    assert_eq!(results.flatten().count() as u64, items, "each item has a result");
}

pub(super) fn measure(method: &Method) -> Section {
    let mut section = Section::new(
        "The way to a service",
        "10 s of work in items of 1 ms, on two workers: worker processes (LOCAL), and jails of a service on the same \
         machine (CLOUD, `fastmap serve --dev`, loopback, plain HTTP), each for the whole map, from its first `next()`. \
         The program was uploaded before; the opening of the run and the start of its workers are included.",
        &["", "s", "over LOCAL, %"],
    );
    let (_service, cloud) = match Service::start(WORKERS) {
        Ok((service, secret, url)) => {
            (service, Options::new().exec_policy(ExecPolicy::Cloud).secret(secret).cloud_url(url))
        }
        Err(why) => {
            section.row("not measured", [why, String::new()]);
            return section;
        }
    };
    let (items, turns) = (if method.quick { ITEMS_QUICK } else { ITEMS }, turns(Duration::from_millis(1)));
    let config = |options: Options| {
        let config = fastmap::init(options.verbosity(Verbosity::Quiet)).expect("these options can be used");
        pass(&config, 100, turns);
        config
    };
    let local = config(Options::new().exec_policy(ExecPolicy::Local).local_processes(WORKERS));
    let cloud = config(cloud);
    let entry = |name: &'static str, config: FastmapConfig| {
        Entry::new(name, move || seconds(|| pass(&config, items, turns)))
    };
    let outcome = rounds(method, vec![entry("LOCAL", local), entry("CLOUD", cloud)]);
    let over =
        outcome.find("CLOUD").against(outcome.find("LOCAL"), |cloud, local| (cloud / local - 1.0) * 100.0);
    section.row("LOCAL", [cell(outcome.find("LOCAL").spread(|time| time)), String::new()]);
    section.row("CLOUD", [cell(outcome.find("CLOUD").spread(|time| time)), cell(over)]);
    section.targets.push(Target::new(
        "CLOUD over LOCAL, 10 s of items of 1 ms, as many workers, one machine, %",
        median(over),
        Goal::AtMost(5.0),
    ));
    section.count(&outcome);
    section
}
