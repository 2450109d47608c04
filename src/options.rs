//! What a user may set: by a method of [`Options`], else by an environment variable, else the default.
//! Read once, by `init`; a value that can't be used is an error that names it.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fastmap_backends::sandbox::Demand;
use fastmap_backends::{Backend, local::default_processes};

use crate::error::{Error, ErrorKind};

/// Where batches run.
///
/// # Examples
///
/// ```
/// use fastmap::{ExecPolicy, Options};
///
/// // Nothing of this program leaves the machine, whatever the environment says.
/// let options = Options::new().exec_policy(ExecPolicy::Local);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ExecPolicy {
    /// In worker processes of this machine. Free.
    Local,
    /// In a cloud service; this machine stays idle. Costs credits.
    Cloud,
    /// Wherever the whole map ends soonest. Without a secret that is this machine.
    #[default]
    Adaptive,
}

/// How much fastmap tells on stderr.
///
/// # Examples
///
/// ```
/// use fastmap::{Options, Verbosity};
///
/// let options = Options::new().verbosity(Verbosity::Loud);
/// assert!(Verbosity::Loud > Verbosity::Normal);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Warnings and errors only.
    Quiet,
    /// A progress bar on a terminal, and one line at the end of a map.
    #[default]
    Normal,
    /// Each batch as well.
    Loud,
}

/// Whether workers of this machine are confined: whether the kernel refuses what the contract of a mapped function
/// forbids (files, network, other processes). What an item fails of is then named in its error.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::{ErrorKind, Options, Sandbox};
///
/// let config = match fastmap::init(Options::new().sandbox(Sandbox::Require)) {
///     // A kernel without Landlock or seccomp.
///     Err(error) if error.kind() == ErrorKind::Options => return Ok(()),
///     other => other?,
/// };
/// let mut answers = config.fastmap(|path: String| std::fs::read(path).is_ok(), ["/etc/passwd".to_owned()]);
/// assert!(!answers.next().unwrap()?);
/// # Ok::<(), fastmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Sandbox {
    /// Never: for debuggers, profilers, coverage, and functions that do use files.
    Off,
    /// Exactly when a batch may leave this machine (a secret is set and the policy is not `Local`), so that what passes
    /// here passes there. What the kernel lacks is told by one warning.
    #[default]
    Auto,
    /// Always. Where the kernel can't, `init` fails.
    Require,
}

/// Settings of a [`FastmapConfig`](crate::FastmapConfig).
///
/// What is not set here is taken from the environment, then from the defaults:
///
/// | method | variable | default |
/// |---|---|---|
/// | [`exec_policy`](Options::exec_policy) | `FASTMAP_EXEC_POLICY` = `local`, `cloud`, `adaptive` | adaptive |
/// | [`local_processes`](Options::local_processes) | `FASTMAP_LOCAL_PROCESSES` = 1, 2, … | max(1, 2 · cores − 2) |
/// | [`verbosity`](Options::verbosity) | `FASTMAP_VERBOSITY` = `quiet`, `normal`, `loud` | normal |
/// | [`read_ahead`](Options::read_ahead) | `FASTMAP_READ_AHEAD` in bytes | 64 MB |
/// | [`item_timeout`](Options::item_timeout) | `FASTMAP_ITEM_TIMEOUT` in seconds | none |
/// | [`worker_memory`](Options::worker_memory) | `FASTMAP_WORKER_MEMORY` in bytes | none |
/// | [`max_items_per_worker`](Options::max_items_per_worker) | `FASTMAP_MAX_ITEMS_PER_WORKER` = 1, 2, … | none |
/// | [`sandbox`](Options::sandbox) | `FASTMAP_SANDBOX` = `off`, `auto`, `require` | auto |
/// | [`inline`](Options::inline) | `FASTMAP_INLINE` = true, false, 1, 0 | false |
/// | [`timings`](Options::timings) | `FASTMAP_TIMINGS` = a path | none |
/// | [`secret`](Options::secret) | `FASTMAP_SECRET` | none: everything runs on this machine |
/// | [`cloud_url`](Options::cloud_url) | `FASTMAP_CLOUD_URL` = `https://HOST[:PORT]` | none |
/// | [`max_credits`](Options::max_credits) | `FASTMAP_MAX_CREDITS` in credits | none |
/// | [`confirm_charges`](Options::confirm_charges) | `FASTMAP_CONFIRM_CHARGES` = true, false, 1, 0 | false |
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use fastmap::{ExecPolicy, Options, Verbosity};
///
/// let options = Options::new()
///     .exec_policy(ExecPolicy::Local)
///     .local_processes(4)
///     .verbosity(Verbosity::Quiet)
///     .item_timeout(Duration::from_secs(30));
/// ```
#[derive(Clone, Default)]
#[must_use = "options do nothing until they are handed to `init`"]
pub struct Options {
    exec_policy: Option<ExecPolicy>,
    local_processes: Option<usize>,
    verbosity: Option<Verbosity>,
    read_ahead: Option<usize>,
    item_timeout: Option<Duration>,
    worker_memory: Option<u64>,
    max_items_per_worker: Option<u64>,
    sandbox: Option<Sandbox>,
    inline: Option<bool>,
    timings: Option<PathBuf>,
    secret: Option<String>,
    cloud_url: Option<String>,
    max_credits: Option<f64>,
    confirm_charges: Option<bool>,
    backend: Option<Arc<dyn Backend>>,
}

impl Options {
    /// Nothing set.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new();
    /// ```
    pub fn new() -> Self {
        Options::default()
    }

    /// Where batches run.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().exec_policy(fastmap::ExecPolicy::Local);
    /// ```
    pub fn exec_policy(mut self, policy: ExecPolicy) -> Self {
        self.exec_policy = Some(policy);
        self
    }

    /// Most worker processes at a time on this machine, at least 1. They are started when there is work for them.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().local_processes(4);
    /// ```
    pub fn local_processes(mut self, processes: usize) -> Self {
        self.local_processes = Some(processes);
        self
    }

    /// How much is told on stderr.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().verbosity(fastmap::Verbosity::Quiet);
    /// ```
    pub fn verbosity(mut self, verbosity: Verbosity) -> Self {
        self.verbosity = Some(verbosity);
        self
    }

    /// Bytes of encoded inputs and undelivered results that a map may hold in this process. What the consumer waits
    /// for is taken whatever its size, so that no value is too small. Beside it, a worker shares up to 8 MB with this
    /// process for large payloads on their way.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().read_ahead(16_000_000);
    /// ```
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = Some(bytes);
        self
    }

    /// An item that runs longer is answered by a [`Timeout`](crate::ErrorKind::Timeout) error, and its worker ended.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().item_timeout(std::time::Duration::from_secs(10));
    /// ```
    pub fn item_timeout(mut self, limit: Duration) -> Self {
        self.item_timeout = Some(limit);
        self
    }

    /// A worker of this machine that holds more bytes of memory of its own is ended and replaced. Its item is tried
    /// again in another one, as those before it may have leaked; if it takes as much each time it is answered by an
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) error.
    ///
    /// It is looked at some 50 times a second, so that a worker may be above it for a moment. What does not count: the
    /// program itself, files, and memory that processes share.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().worker_memory(2 << 30);
    /// ```
    pub fn worker_memory(mut self, bytes: u64) -> Self {
        self.worker_memory = Some(bytes);
        self
    }

    /// A worker of this machine that has run so many items is replaced by a new one, which takes some milliseconds:
    /// for C libraries that leak. No item is lost or run twice by that.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().max_items_per_worker(10_000);
    /// ```
    pub fn max_items_per_worker(mut self, items: u64) -> Self {
        self.max_items_per_worker = Some(items);
        self
    }

    /// Whether workers of this machine are confined.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().sandbox(fastmap::Sandbox::Require);
    /// ```
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Whether the calling thread may run the function itself, where that is quicker than a worker: it takes all of a
    /// map that is too small to be worth a process, and the first items of any other. No map is then noticeably slower
    /// than [`Iterator::map`], however small its work.
    ///
    /// The price is isolation. What the function does to its process (abort, segfault, leak, `exit`, an item that never
    /// ends), it may do to this one, and it sees this process's statics and thread-locals. A panic is still the item's error, unless the
    /// program is built with `panic = "abort"`. Items and results of the calling thread are not encoded: a type that
    /// can't be carried fails in a large map alone.
    ///
    /// Under the policies [`Local`](ExecPolicy::Local) and [`Adaptive`](ExecPolicy::Adaptive). Not for maps by
    /// [`fastmap_init`](crate::FastmapConfig::fastmap_init), whose state belongs to a worker; for those with an item timeout,
    /// a deadline, retries, a checkpoint or [`OnError::Stop`](crate::OnError::Stop), which this thread could not keep to; on a [`backend`](Options::backend) of your own; and within the function of another map.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::{ExecPolicy, Options};
    ///
    /// let config = fastmap::init(Options::new().exec_policy(ExecPolicy::Local).inline(true))?;
    /// // Three items are not worth a process.
    /// let processes = config.fastmap(|_: u8| std::process::id(), 0..3);
    /// assert!(processes.map(Result::unwrap).all(|process| process == std::process::id()));
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn inline(mut self, inline: bool) -> Self {
        self.inline = Some(inline);
        self
    }

    /// Each map writes a report of what took its time to `path`, or beside it: see [`Fastmap::timings`](crate::Fastmap::timings).
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().timings("report.html");
    /// ```
    pub fn timings(mut self, path: impl Into<PathBuf>) -> Self {
        self.timings = Some(path.into());
        self
    }

    /// The secret that a cloud service gave: 64 characters of 0-9 and a-z. It is never shown, never sent as a whole, and
    /// never in a worker's environment. Without one every policy runs on this machine, and a line says so.
    ///
    /// With one, and another policy than [`Local`](ExecPolicy::Local), there must be a [`cloud_url`](Options::cloud_url), and
    /// what runs on the service is paid from the account's balance: see [`max_credits`](Options::max_credits) and
    /// [`confirm_charges`](Options::confirm_charges).
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().secret(std::fs::read_to_string("secret.txt").unwrap_or_default().trim());
    /// ```
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// The address of the cloud service: `https://HOST` or `https://HOST:PORT`. Plain `http://` is taken for this machine
    /// alone (`localhost`, `127.0.0.1`, `[::1]`).
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().cloud_url("https://fastmap.example:8750");
    /// ```
    pub fn cloud_url(mut self, url: impl Into<String>) -> Self {
        self.cloud_url = Some(url.into());
        self
    }

    /// The most that one map may spend on the service, in credits (2.5, say; from a millionth on). The service holds the
    /// map to it. Under [`Cloud`](ExecPolicy::Cloud) a map that has spent as much yields what was paid for and then one
    /// [`OutOfCredits`](crate::ErrorKind::OutOfCredits) error; under [`Adaptive`](ExecPolicy::Adaptive) it goes on on this
    /// machine.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().max_credits(2.5);
    /// ```
    pub fn max_credits(mut self, credits: impl Into<f64>) -> Self {
        self.max_credits = Some(credits.into());
        self
    }

    /// Whether each map asks on the terminal, y or n, before its first batch goes to the service. The question names the
    /// number of items, if it is known, the prices, and what the map may spend. Any other answer than y or yes, and no
    /// terminal, is a no: under [`Cloud`](ExecPolicy::Cloud) a [`Declined`](crate::ErrorKind::Declined) error, under
    /// [`Adaptive`](ExecPolicy::Adaptive) the map stays on this machine.
    ///
    /// When it is off, one line (at [`Verbosity::Normal`]) says that the balance is debited.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().confirm_charges(true);
    /// ```
    pub fn confirm_charges(mut self, confirm: bool) -> Self {
        self.confirm_charges = Some(confirm);
        self
    }

    /// A backend of your own takes the batches, whatever the policy says.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::backends::{Local, LocalOptions};
    ///
    /// // The worker pool of this machine, made by hand; `Backend` shows one that is written from nothing.
    /// let pool = Local::new(LocalOptions::new(2)).expect("a pool without workers");
    /// let config = fastmap::init(fastmap::Options::new().backend(pool))?;
    /// assert_eq!(config.fastmap(|n: u64| n + 1, [1]).next().unwrap()?, 2);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn backend(mut self, backend: impl Backend + 'static) -> Self {
        self.backend = Some(Arc::new(backend));
        self
    }

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
            return Err(Error::new(
                ErrorKind::Options,
                "local_processes(0): at least 1 worker process is needed",
            ));
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
            return Err(Error::new(
                ErrorKind::Options,
                "an item timeout of 0 leaves no item any time; set one above 0",
            ));
        }
        let worker_memory = read.above_0(
            ("worker_memory", self.worker_memory),
            "FASTMAP_WORKER_MEMORY",
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
                secret: Hidden(secret),
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

/// Cores that this process may use. Asked once: it reads files of cgroups, for 0.1 ms.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("exec_policy", &self.exec_policy)
            .field("local_processes", &self.local_processes)
            .field("verbosity", &self.verbosity)
            .field("read_ahead", &self.read_ahead)
            .field("item_timeout", &self.item_timeout)
            .field("worker_memory", &self.worker_memory)
            .field("max_items_per_worker", &self.max_items_per_worker)
            .field("sandbox", &self.sandbox)
            .field("inline", &self.inline)
            .field("timings", &self.timings)
            .field("secret", &self.secret.as_ref().map(|_| "…"))
            .field("cloud_url", &self.cloud_url)
            .field("max_credits", &self.max_credits)
            .field("confirm_charges", &self.confirm_charges)
            .field("backend", &self.backend)
            .finish()
    }
}

/// Options with nothing left open.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) exec_policy: ExecPolicy,
    pub(crate) verbosity: Verbosity,
    pub(crate) local_processes: usize,
    pub(crate) read_ahead: usize,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) worker_memory: Option<u64>,
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
    pub(crate) secret: Hidden,
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
pub(crate) struct Hidden(pub(crate) String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Settings {
    /// How workers of this machine are to be confined.
    pub(crate) fn confinement(&self) -> Demand {
        match self.sandbox {
            Sandbox::Auto if self.has_secret && self.exec_policy != ExecPolicy::Local => Demand::BestEffort,
            Sandbox::Off | Sandbox::Auto => Demand::Off,
            Sandbox::Require => Demand::Full,
        }
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
                "FASTMAP_SECRET: this is no text; allowed: the secret that the service gave",
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
            (Options::new(), Demand::Off),
            (secret.clone(), Demand::BestEffort),
            (secret.clone().exec_policy(ExecPolicy::Cloud), Demand::BestEffort),
            (secret.clone().exec_policy(ExecPolicy::Local), Demand::Off),
            (secret.sandbox(Sandbox::Off), Demand::Off),
            (Options::new().sandbox(Sandbox::Require), Demand::Full),
        ] {
            let told = format!("{options:?}");
            assert_eq!(resolve(options, &[]).expect("all can be used").confinement(), confinement, "{told}");
        }
        let settings = resolve(Options::new(), &[("FASTMAP_SANDBOX", "Require")]).expect("it can be used");
        assert_eq!(settings.confinement(), Demand::Full);
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
