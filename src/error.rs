//! Errors of items and of whole maps: one opaque type.
//! Made by the adapters and by `init`; users match on [`ErrorKind`] and read the message.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use fastmap_backends::{BackendError, ExitReason, FailureKind, ItemFailure, WorkerExit};

/// What went wrong, in one word.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::ErrorKind;
///
/// for answer in fastmap::fastmap(|n: u64| 100 / n, 0..3) {
///     match answer {
///         Ok(value) => println!("{value}"),
///         Err(error) if error.kind() == ErrorKind::Panic => println!("left out: {error}"),
///         // No single item: this error ended the map.
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok::<(), fastmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The function panicked at this item; the worker lives on.
    Panic,
    /// The worker that ran this item died of it, again when the item was tried alone.
    Crash,
    /// The item ran longer than `item_timeout`; or, without an index, the map longer than its
    /// [`deadline`](crate::Fastmap::deadline), which ends it.
    Timeout,
    /// The worker that ran this item held more memory than `worker_memory` or its jail allow, or the kernel ended it for want
    /// of memory; again when the item was tried alone.
    OutOfMemory,
    /// No worker can be kept alive, or the first eight items have all ended their workers in the same way and with the
    /// same words: the map ends. The message lists the deaths.
    AllWorkersDied,
    /// An item, a result or the context could not be written or read.
    Serialize,
    /// An option or an environment variable has a value that can't be used.
    Options,
    /// `main` does not begin with `fastmap_main!` or [`enter`](crate::enter).
    NotEntered,
    /// The service does not accept the secret: it is another service's, was revoked, or has expired. The map
    /// ends.
    Unauthorized,
    /// The account has no credits left, or the map has spent its [`max_credits`](crate::Options::max_credits). The map ends, behind
    /// all results that were paid for.
    OutOfCredits,
    /// The user did not confirm the charges, or there was no terminal to ask at; see
    /// [`confirm_charges`](crate::Options::confirm_charges). The map ends; nothing was sent.
    Declined,
    /// The service, or the way to it, failed for longer than it is worth waiting, or refused the program. The map ends.
    Cloud,
    /// A checkpoint can't be used: its file, or what it holds is of another function or input.
    Checkpoint,
    /// A [`Backend`](crate::backends::Backend) of your own could not go on, or a thread of one of fastmap's panicked. The map ends.
    Backend,
    /// The operating system refused something.
    Io,
}

/// Why an item has no result, or why a map ended.
///
/// [`Error::kind`] is the category, [`Error::index`] the item ([`Error::is_fatal`]: the whole map), `Display` the message,
/// and `source()` the cause.
///
/// # Design
///
/// One opaque type serves items and maps, because both come out of one iterator and most programs treat them alike.
/// What a program may decide by is a method; everything else is in the message, which may change between versions.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::ErrorKind;
///
/// let error = fastmap::fastmap(|n: u64| 100 / n, [4, 0]).find_map(Result::err).unwrap();
/// assert_eq!((error.kind(), error.index()), (ErrorKind::Panic, Some(1)));
/// assert!(error.to_string().starts_with("item 1: panicked at "));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    index: Option<u64>,
    tries: u32,
    message: String,
    /// The text of which `message` is a part, and behind it the frames of a panic.
    whole: Option<[Arc<str>; 2]>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(Inner { kind, index: None, tries: 0, message, whole: None, source: None }))
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    pub(crate) fn at(mut self, index: u64) -> Self {
        self.0.index = Some(index);
        self
    }

    /// The item was tried so often.
    pub(crate) fn tried(mut self, tries: u32) -> Self {
        self.0.tries = tries;
        self
    }

    /// Has a part of the text from now on, because another error has had the `whole` of it. `{:#?}` shows
    /// that.
    pub(crate) fn shortened(mut self, message: String, whole: [Arc<str>; 2]) -> Self {
        (self.0.message, self.0.whole) = (message, Some(whole));
        // What prints a chain of errors would print the text of the source.
        if self.0.kind == ErrorKind::Serialize {
            self.0.source = None;
        }
        self
    }

    /// The text, without the item's index.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// The death of the item's worker, if it died of that.
    pub(crate) fn death(&self) -> Option<&WorkerExit> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// What went wrong, in one word.
    ///
    /// # Examples
    ///
    /// ```
    /// use fastmap::{ErrorKind, Options};
    ///
    /// let error = fastmap::init(Options::new().local_processes(0)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Options);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Index in the input of the item that this is about; `None` where it is about the whole map.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// let mut answers = fastmap::fastmap(|n: u64| 100 / n, [4, 0]);
    /// let error = answers.find_map(Result::err).unwrap();
    /// assert_eq!(error.index(), Some(1));
    /// ```
    pub fn index(&self) -> Option<usize> {
        self.0.index.and_then(|index| usize::try_from(index).ok())
    }

    /// Whether this error ended the map. It is then the map's last answer. Without it, the error is about one item, and the map
    /// goes on unless [`on_error`](crate::Fastmap::on_error) ends it.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// let mut answers = fastmap::fastmap(|n: u64| 100 / n, [4, 0, 5]);
    /// let error = answers.find_map(Result::err).unwrap();
    /// assert!(!error.is_fatal());
    /// assert_eq!(answers.next().unwrap()?, 20);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn is_fatal(&self) -> bool {
        self.0.index.is_none()
    }

    /// How often the function was tried with the item, the first time included: more than once where its worker died
    /// of it, and where [`retries`](crate::Fastmap::retries) asks for it. 0 where the error is of no item, or of one that
    /// never came to the function.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// let mut answers = fastmap::fastmap(|n: u64| 100 / n, [0]).retries(2);
    /// assert_eq!(answers.next().unwrap().unwrap_err().attempts(), 3);
    /// ```
    pub fn attempts(&self) -> u32 {
        self.0.tries
    }

    /// The answer to an item that has none, because the map has ended by an error of this kind.
    pub(crate) fn unanswered(kind: ErrorKind) -> Self {
        let why = match kind {
            ErrorKind::OutOfCredits => "out of credits",
            ErrorKind::Unauthorized => "the service did not accept the secret",
            ErrorKind::Cloud => "the service could not go on with it",
            _ => "it could not go on",
        };
        let message = format!("not answered when the map ended: {why} (the map's last error says more)");
        Error::new(kind, message)
    }

    /// An item's failure as its worker told it.
    pub(crate) fn of_failure(failure: ItemFailure) -> Self {
        Error::new(kind_of(failure.kind), failure.message).tried(1)
    }

    fn whole(&self) -> String {
        self.0.whole.as_ref().map_or_else(|| self.0.message.clone(), |whole| whole.concat())
    }

    /// The answer to the item that a worker died of.
    pub(crate) fn of_death(death: WorkerExit) -> Self {
        let kind = match death.cause {
            ExitReason::Timeout(_) => ErrorKind::Timeout,
            ExitReason::OutOfMemory(_) => ErrorKind::OutOfMemory,
            _ => ErrorKind::Crash,
        };
        Error::new(kind, death.to_string()).with_source(death)
    }

    /// What ends a map because its backend can't go on.
    pub(crate) fn of_backend(error: BackendError) -> Self {
        let kind = match &error {
            BackendError::NoWorkers(_) => ErrorKind::AllWorkersDied,
            BackendError::Setup(failure) => kind_of(failure.kind),
            BackendError::Forked { .. } => ErrorKind::NotEntered,
            BackendError::Unauthorized(_) => ErrorKind::Unauthorized,
            BackendError::OutOfCredits(_) => ErrorKind::OutOfCredits,
            BackendError::Declined(_) => ErrorKind::Declined,
            BackendError::Cloud(..) => ErrorKind::Cloud,
            BackendError::Io(..) => ErrorKind::Io,
            BackendError::Other(_) => ErrorKind::Backend,
        };
        Error::new(kind, error.to_string()).with_source(error)
    }
}

fn kind_of(kind: FailureKind) -> ErrorKind {
    match kind {
        FailureKind::Panic => ErrorKind::Panic,
        FailureKind::Serialize => ErrorKind::Serialize,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.0.index {
            write!(f, "item {index}")?;
            if self.0.tries > 1 {
                write!(f, " (tried {} times)", self.0.tries)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.0.message)
    }
}

/// For people, since it is what a `main` prints whose error this is: the text and the kind. `{:#?}` has all fields.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "{self} ({:?})", self.0.kind);
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("index", &self.0.index)
            .field("attempts", &self.0.tries)
            .field("message", &self.whole())
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
