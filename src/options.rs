//! What a user may set, by the methods of [`Options`]. What comes of it stands in `settings`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastmap_backends::Backend;

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
    /// here passes there. One warning names what the kernel lacks.
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
/// | [`worker_stack`](Options::worker_stack) | `FASTMAP_WORKER_STACK` in bytes | as the main thread's (`ulimit -s`) |
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
    pub(crate) exec_policy: Option<ExecPolicy>,
    pub(crate) local_processes: Option<usize>,
    pub(crate) verbosity: Option<Verbosity>,
    pub(crate) read_ahead: Option<usize>,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) worker_memory: Option<u64>,
    pub(crate) worker_stack: Option<u64>,
    pub(crate) max_items_per_worker: Option<u64>,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) inline: Option<bool>,
    pub(crate) timings: Option<PathBuf>,
    pub(crate) secret: Option<String>,
    pub(crate) cloud_url: Option<String>,
    pub(crate) max_credits: Option<f64>,
    pub(crate) confirm_charges: Option<bool>,
    pub(crate) backend: Option<Arc<dyn Backend>>,
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

    /// How much fastmap prints on stderr.
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

    /// Bytes of stack that the function has in a worker of this machine, at least 1 MiB: for deep recursion. Only what is
    /// used of it takes memory. By default it is as large as the stack of a program's main thread may become. On the
    /// service and in the calling thread (see [`inline`](Options::inline)) it has no meaning.
    ///
    /// # Examples
    ///
    /// ```
    /// let options = fastmap::Options::new().worker_stack(256 << 20);
    /// ```
    pub fn worker_stack(mut self, bytes: u64) -> Self {
        self.worker_stack = Some(bytes);
        self
    }

    /// Items after which a worker of this machine is replaced by a new one, which takes some milliseconds: for C libraries
    /// that leak. No item is lost or run twice by that.
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
    /// can't be carried fails in a large map alone. And they are the values themselves where workers have copies,
    /// which may be equal and not the same: an array whose copy lies in memory in another order (`ndarray`, column by column) is summed in
    /// another order, a `SlotMap` hands out other keys. Where such a function's last bits count, leave `inline` off: then
    /// each item is a copy.
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

    /// The most that one map may spend on the service, in credits (2.5, say). The service holds the map to it.
    /// It begins a batch only while what a second of CPU time and 64 KiB of results cost is left: 0.0034
    /// credits at the default prices. Under [`Cloud`](ExecPolicy::Cloud) a map that has spent as much yields what
    /// was paid for and then one [`OutOfCredits`](crate::ErrorKind::OutOfCredits) error; under
    /// [`Adaptive`](ExecPolicy::Adaptive) it goes on on this machine.
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
            .field("worker_stack", &self.worker_stack)
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
