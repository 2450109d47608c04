//! Notices to the user, and the confirmation that a run may be charged. Implemented by programs with a
//! terminal; called from the run's own thread, which blocks until they return.

use std::fmt::{self, Debug, Display};
use std::time::Duration;

use crate::cloud::protocol::Prices;
use crate::model::cost::{credits, in_credits};
use crate::model::words::counted;

/// A listener for notices. Notices are for people; nothing depends on them.
pub trait NoticeListener: Send + Sync + Debug {
    /// Receives an event that may be worth a line, or the next step of a progress bar. `Display` formats it.
    fn notice(&self, notice: &Notice<'_>);
}

/// Ignores all notices.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopListener;

impl NoticeListener for NoopListener {
    fn notice(&self, _notice: &Notice<'_>) {}
}

/// An event between this program and the service.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The first batch is about to be sent without a confirmation: from now on the account is charged. Sent
    /// once per run, but not if the charges were confirmed.
    Charging {
        /// The account's name.
        account: &'a str,
        /// Its balance, in millionths of a credit.
        balance: i64,
        /// The prices.
        prices: Prices,
        /// Spending limit of the run.
        max_credits: Option<i64>,
    },
    /// Upload progress; complete when `sent == total`. Not sent for uploads that the service already has.
    Upload {
        /// The kind of upload.
        what: Upload,
        /// Bytes that have arrived, compressed.
        sent: u64,
        /// Total bytes, compressed.
        total: u64,
    },
    /// The service has started a worker of this program and takes batches.
    Opened {
        /// The run's name there.
        run: &'a str,
        /// Workers that share its batches.
        workers: u32,
    },
    /// No valid answer has arrived for a while. The client keeps trying.
    Silent {
        /// For this long.
        since: Duration,
        /// The last failure.
        why: &'a str,
    },
    /// The service makes a call wait for other runs or batches of the account.
    Waiting {
        /// For this long.
        since: Duration,
        /// The reason, in the words of the service.
        why: &'a str,
    },
    /// Valid answers arrive again.
    Answering {
        /// After this long.
        after: Duration,
    },
    /// The run's lease ended before the client reached the service again: the map continues in a new run.
    Reopened,
    /// Lines of the workers that the service dropped before they were fetched.
    LinesLost {
        /// Number of lines.
        lines: u64,
    },
}

/// Kind of upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// The program itself.
    Executable,
    /// The context of its function.
    Context,
}

impl Display for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Upload::Executable => "executable",
            Upload::Context => "context",
        })
    }
}

impl Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Charging { account, balance, prices, max_credits } => {
                write!(
                    f,
                    "the account {account} is charged automatically: {} for an hour of CPU time, {} for a GB \
                     of results; it has {}",
                    in_credits(prices.cpu_hour),
                    credits(prices.result_gb),
                    credits(*balance)
                )?;
                match max_credits {
                    Some(limit) => write!(f, ", and this run may spend {}", credits(*limit)),
                    None => Ok(()),
                }
            }
            Notice::Upload { what, sent, total } => {
                write!(f, "uploading the {what}: {sent} of {total} bytes")
            }
            Notice::Opened { run, workers } => {
                write!(f, "run {run} is open, with {}", counted(u64::from(*workers), "worker"))
            }
            Notice::Silent { since, why } => {
                write!(f, "no good answer from the service for {} s, trying on: {why}", since.as_secs())
            }
            Notice::Waiting { since, why } => {
                write!(f, "waiting for the service for {} s: {why}", since.as_secs())
            }
            Notice::Answering { after } => {
                write!(f, "the service answers again, after {} s", after.as_secs())
            }
            Notice::Reopened => f.write_str(
                "the service ended the run because it received nothing from it in time; the map continues in a new run",
            ),
            Notice::LinesLost { lines } => {
                let was = if *lines == 1 { "was" } else { "were" };
                write!(
                    f,
                    "{} of the workers in the cloud {was} left out here: the service keeps the last megabyte \
                     of a run until it is fetched, each second",
                    counted(*lines, "line")
                )
            }
        }
    }
}

/// The confirmation before anything is charged.
pub trait Confirm: Send + Sync + Debug {
    /// Returns whether the run may start and be charged. Called once per run, before its first batch is sent;
    /// the run waits.
    ///
    /// # Errors
    /// If it may not: the user declined, or there is no terminal to ask at.
    fn charges(&self, estimate: &Estimate) -> Result<(), ConfirmError>;

    /// As [`charges`](Confirm::charges), but cancellable; a run calls this method. The run may end before
    /// there is an answer: `wanted` then returns false, and an implementation that waits should return. Its
    /// result is ignored then.
    ///
    /// # Errors
    /// As [`charges`](Confirm::charges), which the default implementation calls.
    fn charges_cancellable(
        &self,
        estimate: &Estimate,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), ConfirmError> {
        let _ = wanted;
        self.charges(estimate)
    }
}

/// Why the charges are not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfirmError {
    /// The user declined.
    Declined,
    /// There is no terminal to ask at.
    NoTerminal,
}

/// An estimate of the cost of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The account that would be charged.
    pub account: String,
    /// Its balance, in millionths of a credit.
    pub balance: i64,
    /// The prices.
    pub prices: Prices,
    /// Spending limit of the run.
    pub max_credits: Option<i64>,
    /// Items in the input, if their number is known.
    pub items: Option<u64>,
    /// Measurement of the first items on this machine, if there was one.
    pub probe: Option<Probe>,
}

/// Cost of some items measured on this machine. Their results are used and not charged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Number of items.
    pub items: u64,
    /// CPU time per item.
    pub cpu: Duration,
    /// Result bytes per item.
    pub result_bytes: f64,
}

impl Estimate {
    /// Cost of the run in millionths of a credit, if all items are like the measured ones. `None` if the
    /// number of items is unknown or nothing was measured.
    pub fn cost(&self) -> Option<i64> {
        let (items, probe) = (self.items?, self.probe?);
        let left = items.saturating_sub(probe.items) as f64;
        let hours = left * probe.cpu.as_secs_f64() / 3600.0;
        let gigabytes = left * probe.result_bytes / 1e9;
        let cost = hours * self.prices.cpu_hour as f64 + gigabytes * self.prices.result_gb as f64;
        Some(cost.ceil() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_cover_the_remaining_items() {
        let probe = Probe { items: 10, cpu: Duration::from_millis(36), result_bytes: 1000.0 };
        let estimate = Estimate {
            account: "a".to_owned(),
            balance: 0,
            prices: Prices { cpu_hour: 10_000_000, result_gb: 10_000_000 },
            max_credits: None,
            items: Some(1_000_010),
            probe: Some(probe),
        };
        // A million items: 10 hours, and a gigabyte.
        assert_eq!(estimate.cost(), Some(110_000_000));
        assert_eq!(Estimate { items: None, ..estimate.clone() }.cost(), None);
        assert_eq!(Estimate { probe: None, ..estimate }.cost(), None);
    }
}
