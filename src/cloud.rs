//! Builds the cloud backend of the configured account, and implements its notices and its confirmation on the terminal.
//! Notices go to stderr like all of fastmap's lines.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastmap_backends::adaptive::DecisionObserver;
use fastmap_backends::cloud::{
    Cloud, CloudOptions, Confirm, ConfirmError, Estimate, Notice, NoticeListener, Secret, SecretError,
    ServiceUrl, UrlError,
};
use fastmap_backends::{Adaptive, AdaptiveOptions, Backend, counted, credits, in_credits};

use crate::error::{Error, ErrorKind};
use crate::options::Verbosity;
use crate::report::{Console, ask, draw_upload, notice, warn};
use crate::settings::{Account, Settings};

/// A map that can go on without the service gives it up after so long a silence.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service of an account. Nothing is asked of it yet. Where the user is to be asked first, the first items of a
/// map run on `here`, for an estimate.
///
/// # Errors
/// If the secret or the address can't be one, with what was set and what is allowed.
pub(crate) fn backend(
    account: &Account,
    verbosity: Verbosity,
    here: impl FnOnce() -> Result<Arc<dyn Backend>, Error>,
) -> Result<Cloud, Error> {
    let mut options = backend_of(account, verbosity)?;
    if account.confirm_charges {
        options.probe = Some(here()?);
    }
    Cloud::new(options).map_err(Error::of_backend)
}

/// What a backend is made of for an account.
fn backend_of(account: &Account, verbosity: Verbosity) -> Result<CloudOptions, Error> {
    let secret: Secret = account.secret.0.parse().map_err(|error: SecretError| {
        Error::new(ErrorKind::Options, format!("{}: {error}", account.secret_by)).with_source(error)
    })?;
    let _service: ServiceUrl = account.url.parse().map_err(|error: UrlError| {
        Error::new(ErrorKind::Options, format!("{}: {error}", account.url_by)).with_source(error)
    })?;
    let mut options = CloudOptions::new(&account.url, secret);
    options.max_credits = account.max_credits;
    options.relay = Arc::new(Console);
    options.notices = Arc::new(NoticePrinter { verbosity, charging: AtomicBool::new(false), needs: true });
    if account.confirm_charges {
        options.confirm = Some(Arc::new(TerminalPrompt { url: account.url.clone() }));
    }
    Ok(options)
}

/// Each batch here or in the service of an account, where the whole map ends soonest. Who confirms charges is asked once
/// the service would help, with what the items have cost here until then.
///
/// # Errors
/// As [`backend`], and what `here` says.
pub(crate) fn adaptive(
    account: &Account,
    settings: &Settings,
    here: impl FnOnce() -> Result<Arc<dyn Backend>, Error>,
) -> Result<Arc<dyn Backend>, Error> {
    let local = here()?;
    let mut cloud = backend_of(account, settings.verbosity)?;
    cloud.patience = PATIENCE;
    cloud.notices = Arc::new(NoticePrinter {
        verbosity: settings.verbosity,
        charging: AtomicBool::new(false),
        needs: false,
    });
    let mut options = AdaptiveOptions::default();
    options.policy.read_ahead = settings.read_ahead as f64;
    options.trace = std::env::var_os("FASTMAP_TRACE").filter(|path| !path.is_empty()).map(PathBuf::from);
    options.witness = Arc::new(DecisionPrinter { verbosity: settings.verbosity });
    let cloud = Cloud::new(cloud).map_err(Error::of_backend)?;
    Ok(Arc::new(Adaptive::new(local, Arc::new(cloud), options)))
}

/// Tells on stderr what was decided: each decision at Loud, and a warning where the service is left.
#[derive(Debug)]
struct DecisionPrinter {
    verbosity: Verbosity,
}

impl DecisionObserver for DecisionPrinter {
    fn decided(&self, text: &str) {
        if self.verbosity >= Verbosity::Loud {
            notice(text);
        }
    }

    fn left(&self, why: &str) {
        warn(why);
    }
}

/// Tells on stderr what happens on the way to the service.
#[derive(Debug)]
struct NoticePrinter {
    verbosity: Verbosity,
    /// The notice that the balance is debited was printed: once for each configuration.
    charging: AtomicBool,
    /// The map can't go on without the service.
    needs: bool,
}

impl NoticeListener for NoticePrinter {
    fn notice(&self, what: &Notice<'_>) {
        let least = match what {
            Notice::Upload { what, sent, total } => {
                if self.verbosity >= Verbosity::Normal {
                    draw_upload(&what.to_string(), *sent, *total);
                }
                return;
            }
            Notice::Silent { .. } | Notice::Waiting { .. } if !self.needs => Verbosity::Loud,
            Notice::Silent { .. } | Notice::LinesLost { .. } => return warn(&what.to_string()),
            Notice::Charging { .. } => {
                let is_first =
                    self.verbosity >= Verbosity::Normal && !self.charging.swap(true, Ordering::Relaxed);
                if is_first {
                    notice(&format!("{what} (FASTMAP_CONFIRM_CHARGES=true asks first)"));
                }
                return;
            }
            Notice::Waiting { .. } | Notice::Answering { .. } | Notice::Reopened => Verbosity::Normal,
            _ => Verbosity::Loud,
        };
        if self.verbosity >= least {
            notice(&what.to_string());
        }
    }
}

/// Asks on the terminal whether a map may cost something.
#[derive(Debug)]
struct TerminalPrompt {
    url: String,
}

impl Confirm for TerminalPrompt {
    fn charges(&self, estimate: &Estimate) -> Result<(), ConfirmError> {
        self.charges_cancellable(estimate, &|| true)
    }

    fn charges_cancellable(
        &self,
        estimate: &Estimate,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), ConfirmError> {
        match ask(&question(&self.url, estimate), wanted) {
            None => Err(ConfirmError::NoTerminal),
            Some(answer) if ["y", "yes"].contains(&answer.to_ascii_lowercase().as_str()) => Ok(()),
            Some(_) => Err(ConfirmError::Declined),
        }
    }
}

/// What a map is expected to cost, and the question.
fn question(url: &str, estimate: &Estimate) -> String {
    let Estimate { account, balance, prices, max_credits, items, probe } = estimate;
    let mut text = format!(
        "fastmap: a map is to run at {url}, charged to the account {account}: {} for an hour of CPU time, {} \
         for a GB of results.\nfastmap: ",
        in_credits(prices.cpu_hour),
        credits(prices.result_gb),
    );
    let _infallible = match (estimate.cost(), items, probe) {
        (Some(cost), Some(items), Some(probe)) => write!(
            text,
            "{} would cost about {} if they are like the first {}",
            counted(*items, "item"),
            in_credits(cost),
            probe.items
        ),
        (_, Some(1), _) => write!(text, "What 1 item costs cannot be estimated"),
        (_, Some(items), _) => write!(text, "What {items} items cost cannot be estimated"),
        (_, None, _) => {
            write!(text, "What it costs cannot be estimated, as the number of items is not known")
        }
    };
    let _infallible = write!(text, "; the account has {}", credits(*balance));
    if let Some(most) = max_credits {
        let _infallible = write!(text, ", the map may spend {}", credits(*most));
    }
    text + ".\nfastmap: Run it there? [y/N]"
}

#[cfg(test)]
mod tests {
    use fastmap_backends::cloud::{Prices, Probe};

    use super::*;
    use crate::settings::Redacted;

    fn estimate() -> Estimate {
        Estimate {
            account: "dev".to_owned(),
            balance: 1_000_000_000,
            prices: Prices { cpu_hour: 10_000_000, result_gb: 10_000_000 },
            max_credits: None,
            items: Some(1_000_010),
            probe: Some(Probe { items: 10, cpu: Duration::from_millis(36), result_bytes: 0.0 }),
        }
    }

    #[test]
    fn the_question_has_the_estimate_or_says_that_there_is_none() {
        let known = question("https://cloud.example", &estimate());
        assert!(known.contains("https://cloud.example") && known.contains("the account dev"), "{known}");
        assert!(known.contains("1000010 items would cost about 100 credits"), "{known}");
        assert!(known.ends_with("the account has 1000.\nfastmap: Run it there? [y/N]"), "{known}");
        let untried = question("", &Estimate { probe: None, max_credits: Some(500_000), ..estimate() });
        assert!(untried.contains("1000010 items cost cannot be estimated"), "{untried}");
        assert!(untried.contains("the map may spend 0.5."), "{untried}");
        let endless = question("", &Estimate { items: None, ..estimate() });
        assert!(endless.contains("cannot be estimated, as the number of items is not known"), "{endless}");
    }

    #[test]
    fn what_can_be_no_account_is_refused_with_its_name_and_never_the_secret() {
        let good = Account {
            secret: Redacted("0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr".to_owned()),
            secret_by: "FASTMAP_SECRET",
            url: "https://cloud.example".to_owned(),
            url_by: "cloud_url",
            max_credits: None,
            confirm_charges: false,
        };
        let made = |account: &Account| backend(account, Verbosity::Quiet, || unreachable!("nobody is asked"));
        made(&good).expect("nothing is wrong with it");
        for url in ["http://example.com", "example.com", "ftp://example.com"] {
            let error = made(&Account { url: url.to_owned(), ..good.clone() }).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Options);
            let text = error.to_string();
            assert!(
                text.starts_with("cloud_url: ") && text.contains(url) && text.contains("https://"),
                "{text}"
            );
        }
        let error = made(&Account { secret: Redacted("s3cret".to_owned()), ..good }).expect_err("too short");
        assert_eq!(error.kind(), ErrorKind::Options);
        let text = error.to_string();
        assert!(text.starts_with("FASTMAP_SECRET: ") && text.contains("64 characters"), "{text}");
        assert!(!text.contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
