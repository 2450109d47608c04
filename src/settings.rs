//! What holds: what was set by a method of [`Options`], else by an environment variable, else the default.
//! Read once, by `init`; a value that can't be used is an error that names it.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fastmap_backends::Backend;
use fastmap_backends::local::{available_cores, default_processes};
use fastmap_backends::sandbox::ConfinementLevel;

use crate::error::{Error, ErrorKind};
use crate::options::{ExecPolicy, Options, Sandbox, Verbosity};

/// Options with nothing left open.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) exec_policy: ExecPolicy,
    pub(crate) verbosity: Verbosity,
    pub(crate) local_processes: usize,
    pub(crate) read_ahead: usize,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) worker_memory: Option<u64>,
    pub(crate) worker_stack: Option<u64>,
    pub(crate) max_items_per_worker: Option<u64>,
    pub(crate) sandbox: Sandbox,
    pub(crate) inline: bool,
    pub(crate) timings: Option<PathBuf>,
    pub(crate) has_secret: bool,
    /// Where batches may go beside this machine.
    pub(crate) account: Option<Account>,
    pub(crate) backend: Option<Arc<dyn Backend>>,
}

/// An account of a cloud service, as it was set; nothing of it has been tried.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "who has no client needs no account"))]
pub(crate) struct Account {
    pub(crate) secret: Redacted,
    /// What to name where it can't be used: a method or a variable.
    pub(crate) secret_by: &'static str,
    pub(crate) url: String,
    pub(crate) url_by: &'static str,
    /// What a map may spend, in millionths of a credit.
    pub(crate) max_credits: Option<i64>,
    pub(crate) confirm_charges: bool,
}

/// Never shown.
#[derive(Clone)]
#[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "who has no client needs no secret"))]
pub(crate) struct Redacted(pub(crate) String);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Settings {
    /// How workers of this machine are to be confined.
    pub(crate) fn confinement(&self) -> ConfinementLevel {
        match self.sandbox {
            Sandbox::Auto if self.has_secret && self.exec_policy != ExecPolicy::Local => {
                ConfinementLevel::BestEffort
            }
            Sandbox::Off | Sandbox::Auto => ConfinementLevel::Off,
            Sandbox::Require => ConfinementLevel::Full,
        }
    }
}

impl Options {
    /// Fills in what is not set.
    pub(crate) fn resolve(self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, Error> {
        let read = Reader(&variable);
        let words = |value: &str| value.to_ascii_lowercase();
        let exec_policy = read.or(
            self.exec_policy,
            "FASTMAP_EXEC_POLICY",
            "local, cloud, adaptive",
            |value| match words(value).as_str() {
                "local" => Some(ExecPolicy::Local),
                "cloud" => Some(ExecPolicy::Cloud),
                "adaptive" => Some(ExecPolicy::Adaptive),
                _ => None,
            },
        )?;
        let verbosity = read.or(self.verbosity, "FASTMAP_VERBOSITY", "quiet, normal, loud", |value| {
            match words(value).as_str() {
                "quiet" => Some(Verbosity::Quiet),
                "normal" => Some(Verbosity::Normal),
                "loud" => Some(Verbosity::Loud),
                _ => None,
            }
        })?;
        let local_processes =
            read.or(self.local_processes, "FASTMAP_LOCAL_PROCESSES", "a whole number from 1", |value| {
                value.parse().ok().filter(|processes| *processes > 0)
            })?;
        if local_processes == Some(0) {
            let message = "local_processes(0): at least 1 worker process is needed";
            return Err(Error::new(ErrorKind::Options, message));
        }
        let read_ahead =
            read.or(self.read_ahead, "FASTMAP_READ_AHEAD", "a whole number of bytes", |value| {
                value.parse().ok()
            })?;
        let item_timeout =
            read.or(self.item_timeout, "FASTMAP_ITEM_TIMEOUT", "a number of seconds above 0", |value| {
                value
                    .parse()
                    .ok()
                    .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                    .filter(|limit| !limit.is_zero())
            })?;
        if item_timeout.is_some_and(|limit| limit.is_zero()) {
            let message = "an item timeout of 0 leaves no item any time; set one above 0";
            return Err(Error::new(ErrorKind::Options, message));
        }
        let worker_memory = read.above_0(
            ("worker_memory", self.worker_memory),
            "FASTMAP_WORKER_MEMORY",
            "a whole number of bytes above 0",
        )?;
        let worker_stack = read.above_0(
            ("worker_stack", self.worker_stack),
            "FASTMAP_WORKER_STACK",
            "a whole number of bytes above 0",
        )?;
        let max_items_per_worker = read.above_0(
            ("max_items_per_worker", self.max_items_per_worker),
            "FASTMAP_MAX_ITEMS_PER_WORKER",
            "a whole number from 1",
        )?;
        let sandbox =
            read.or(self.sandbox, "FASTMAP_SANDBOX", "off, auto, require", |value| {
                match words(value).as_str() {
                    "off" => Some(Sandbox::Off),
                    "auto" => Some(Sandbox::Auto),
                    "require" => Some(Sandbox::Require),
                    _ => None,
                }
            })?;
        let inline = read.or(self.inline, "FASTMAP_INLINE", "true, false, 1, 0", truth)?;
        let timings = read
            .or(self.timings, "FASTMAP_TIMINGS", "the path of a file", |value| Some(PathBuf::from(value)))?;
        let exec_policy = exec_policy.unwrap_or_default();
        let own_backend = self.backend.is_some();
        let service = Service {
            secret: self.secret,
            cloud_url: self.cloud_url,
            max_credits: self.max_credits,
            confirm_charges: self.confirm_charges,
        };
        let (has_secret, account) =
            service.resolve(&read, exec_policy != ExecPolicy::Local && !own_backend)?;
        Ok(Settings {
            exec_policy,
            verbosity: verbosity.unwrap_or_default(),
            local_processes: local_processes.unwrap_or_else(|| default_processes(cores())),
            read_ahead: read_ahead.unwrap_or(64_000_000),
            item_timeout,
            worker_memory,
            worker_stack,
            max_items_per_worker,
            sandbox: sandbox.unwrap_or_default(),
            inline: inline.unwrap_or(false),
            timings,
            has_secret,
            account,
            backend: self.backend,
        })
    }
}

/// What may be set of a service.
struct Service {
    secret: Option<String>,
    cloud_url: Option<String>,
    max_credits: Option<f64>,
    confirm_charges: Option<bool>,
}

impl Service {
    /// Whether there is a secret; and the account, if batches may go there at all (`used`).
    fn resolve<V: Fn(&str) -> Option<OsString>>(
        self,
        read: &Reader<'_, V>,
        used: bool,
    ) -> Result<(bool, Option<Account>), Error> {
        let text = |value: &str| Some(value.to_owned());
        let secret = read.secret(self.secret)?;
        let (cloud_url, url_by) = match self.cloud_url {
            Some(url) => (Some(url), "cloud_url"),
            None => (
                read.or(None, "FASTMAP_CLOUD_URL", "https://HOST or https://HOST:PORT", text)?,
                "FASTMAP_CLOUD_URL",
            ),
        };
        let allowed = "a number of credits from 0.000001 on";
        if let Some(credits) = self.max_credits.filter(|credits| millionths(*credits).is_none()) {
            let message = format!("max_credits({credits}): this can't be used; allowed: {allowed}");
            return Err(Error::new(ErrorKind::Options, message));
        }
        let max_credits =
            read.or(self.max_credits.and_then(millionths), "FASTMAP_MAX_CREDITS", allowed, |value| {
                value.parse().ok().and_then(millionths)
            })?;
        let confirm_charges =
            read.or(self.confirm_charges, "FASTMAP_CONFIRM_CHARGES", "true, false, 1, 0", truth)?;
        let has_secret = secret.is_some();
        let account = match (secret, cloud_url) {
            _ if !used => None,
            (None, _) => None,
            (Some(_), None) => {
                return Err(Error::new(
                    ErrorKind::Options,
                    "a secret is set, but no service: set cloud_url (FASTMAP_CLOUD_URL), or the policy local",
                ));
            }
            (Some((secret, secret_by)), Some(url)) => Some(Account {
                secret: Redacted(secret),
                secret_by,
                url,
                url_by,
                max_credits,
                confirm_charges: confirm_charges.unwrap_or(false),
            }),
        };
        Ok((has_secret, account))
    }
}

/// Credits in millionths, as the service counts them; `None` for what is no amount to spend.
fn millionths(credits: f64) -> Option<i64> {
    let millionths = (credits * 1e6).round();
    // Where a float holds each whole number, so that nothing is rounded away.
    (1.0..=9e15).contains(&millionths).then_some(millionths as i64)
}

/// A variable that is on or off.
fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

struct Reader<'a, V>(&'a V);

impl<V: Fn(&str) -> Option<OsString>> Reader<'_, V> {
    /// The same for a number that must not be 0. `set` is the method's name with what it was given.
    fn above_0(
        &self,
        (method, set): (&str, Option<u64>),
        name: &str,
        allowed: &str,
    ) -> Result<Option<u64>, Error> {
        let value = self.or(set, name, allowed, |value| value.parse().ok().filter(|number| *number > 0))?;
        if value == Some(0) {
            let message = format!("{method}(0): this can't be used; allowed: {allowed}");
            return Err(Error::new(ErrorKind::Options, message));
        }
        Ok(value)
    }

    /// The secret and what to name where it can't be used. What is no text is not repeated.
    fn secret(&self, set: Option<String>) -> Result<Option<(String, &'static str)>, Error> {
        if let Some(secret) = set {
            return Ok(Some((secret, "secret")));
        }
        let Some(value) = (self.0)("FASTMAP_SECRET").filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        match value.into_string() {
            Ok(secret) => Ok(Some((secret.trim().to_owned(), "FASTMAP_SECRET"))),
            Err(_) => Err(Error::new(
                ErrorKind::Options,
                "FASTMAP_SECRET: this is not text; allowed: the secret that the service gave",
            )),
        }
    }

    /// What was set, else what the variable says, else nothing. An empty variable counts as not set.
    fn or<T>(
        &self,
        set: Option<T>,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        if set.is_some() {
            return Ok(set);
        }
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        match value.to_str().and_then(|text| parse(text.trim())) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::new(
                ErrorKind::Options,
                format!("{name}={}: this can't be used; allowed: {allowed}", value.display()),
            )),
        }
    }
}

/// Cores that this process may use. Asked once: it reads files of cgroups, for 0.1 ms.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(available_cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(options: Options, variables: &[(&str, &str)]) -> Result<Settings, Error> {
        options.resolve(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn a_method_goes_before_the_variable_and_the_variable_before_the_default() {
        let variables =
            [("FASTMAP_EXEC_POLICY", "LOCAL"), ("FASTMAP_LOCAL_PROCESSES", "3"), ("FASTMAP_VERBOSITY", "")];
        let settings = resolve(Options::new().local_processes(5), &variables).expect("all can be used");
        assert_eq!(settings.exec_policy, ExecPolicy::Local);
        assert_eq!(settings.local_processes, 5);
        assert_eq!(settings.verbosity, Verbosity::Normal);
        assert_eq!(settings.read_ahead, 64_000_000);
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_variable_the_value_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("FASTMAP_EXEC_POLICY", "remote", "local, cloud, adaptive"),
            ("FASTMAP_VERBOSITY", "3", "quiet, normal, loud"),
            ("FASTMAP_SANDBOX", "on", "off, auto, require"),
            ("FASTMAP_LOCAL_PROCESSES", "0", "a whole number from 1"),
            ("FASTMAP_LOCAL_PROCESSES", "many", "a whole number from 1"),
            ("FASTMAP_READ_AHEAD", "64MB", "bytes"),
            ("FASTMAP_ITEM_TIMEOUT", "-1", "seconds"),
            ("FASTMAP_INLINE", "yes", "true, false"),
            ("FASTMAP_WORKER_MEMORY", "1 GB", "bytes"),
            ("FASTMAP_WORKER_STACK", "8M", "bytes"),
            ("FASTMAP_MAX_ITEMS_PER_WORKER", "0", "a whole number from 1"),
        ] {
            let error = resolve(Options::new(), &[(name, value)]).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Options);
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(value) && text.contains(allowed), "{text}");
        }
        assert!(resolve(Options::new().local_processes(0), &[]).is_err());
        assert!(resolve(Options::new().worker_memory(0), &[]).is_err());
        assert!(resolve(Options::new().max_items_per_worker(0), &[]).is_err());
        assert!(resolve(Options::new(), &[("FASTMAP_ITEM_TIMEOUT", "0")]).is_err());
    }

    #[test]
    fn a_secret_needs_a_service_unless_all_is_local() {
        let error = resolve(Options::new().secret("s3cret"), &[]).expect_err("no service");
        assert!(error.to_string().contains("FASTMAP_CLOUD_URL"));
        assert!(
            resolve(Options::new().exec_policy(ExecPolicy::Local), &[("FASTMAP_SECRET", "s3cret")]).is_ok()
        );
    }

    #[test]
    fn workers_are_confined_exactly_when_a_batch_may_leave_this_machine_unless_asked_otherwise() {
        let secret = Options::new().secret("s3cret").cloud_url("http://localhost:1");
        for (options, confinement) in [
            (Options::new(), ConfinementLevel::Off),
            (secret.clone(), ConfinementLevel::BestEffort),
            (secret.clone().exec_policy(ExecPolicy::Cloud), ConfinementLevel::BestEffort),
            (secret.clone().exec_policy(ExecPolicy::Local), ConfinementLevel::Off),
            (secret.sandbox(Sandbox::Off), ConfinementLevel::Off),
            (Options::new().sandbox(Sandbox::Require), ConfinementLevel::Full),
        ] {
            let shown = format!("{options:?}");
            assert_eq!(resolve(options, &[]).expect("all can be used").confinement(), confinement, "{shown}");
        }
        let settings = resolve(Options::new(), &[("FASTMAP_SANDBOX", "Require")]).expect("it can be used");
        assert_eq!(settings.confinement(), ConfinementLevel::Full);
    }

    #[test]
    fn credits_are_counted_in_millionths() {
        let account = |options: Options, variables: &[(&str, &str)]| {
            let options = options.secret("s3cret").cloud_url("https://cloud.example");
            resolve(options, variables).map(|settings| settings.account.expect("there is a secret"))
        };
        let cap = |options, variables: &[(&str, &str)]| account(options, variables).map(|it| it.max_credits);
        assert_eq!(cap(Options::new(), &[]).expect("none"), None);
        assert_eq!(cap(Options::new().max_credits(5), &[]).expect("five"), Some(5_000_000));
        assert_eq!(cap(Options::new().max_credits(0.1), &[]).expect("a tenth"), Some(100_000));
        assert_eq!(cap(Options::new(), &[("FASTMAP_MAX_CREDITS", "2.5")]).expect("more"), Some(2_500_000));
        for refused in [0.0, -1.0, 1e-7, f64::NAN, f64::INFINITY] {
            let error = cap(Options::new().max_credits(refused), &[]).expect_err("no amount");
            assert!(error.to_string().starts_with(&format!("max_credits({refused}): ")), "{error}");
        }
        assert!(!account(Options::new(), &[]).expect("the default").confirm_charges);
        let asked = account(Options::new(), &[("FASTMAP_CONFIRM_CHARGES", "TRUE")]).expect("a truth");
        assert!(asked.confirm_charges);
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let options = Options::new().secret("s3cret").cloud_url("https://cloud.example");
        assert!(!format!("{options:?}").contains("s3cret"));
        let settings = resolve(options, &[]).expect("all can be used");
        assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
    }
}
