//! Settings of one map, made before its first item: each method overrides the setting of `Options`.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Batches, Fastmap, OnError, Unordered};

impl<I, R> Fastmap<I, R>
where
    I: Iterator,
    R: DeserializeOwned,
{
    /// Yields results in batches as they come from the workers: fewer, larger steps, in the same order.
    ///
    /// A batch with failed items yields its good runs as `Ok` and each failed item as one `Err`, in order.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// for batch in (0..1000u64).fastmap(|n| n * n).batches() {
    ///     println!("{} results", batch?.len());
    /// }
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn batches(mut self) -> Batches<I, R> {
        self.only_portions();
        Batches::new(self)
    }

    /// Yields results as they are finished, each with the index of its item. A slow item delays no other.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// for result in (0..100u64).fastmap(|n| n * n).unordered() {
    ///     let (index, square) = result?;
    ///     assert_eq!(square, (index * index) as u64);
    /// }
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn unordered(mut self) -> Unordered<I, R> {
        self.engine.reorder_buffer.set_unordered();
        self.only_portions();
        Unordered::new(self)
    }

    /// Names the map, in log lines and in its closing line.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// // fastmap: squares: 100 items in …
    /// let sum = (0..100u64).fastmap(|n| n * n).label("squares").sum::<Result<u64, _>>()?;
    /// # assert_eq!(sum, 328_350);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.engine.label = Some(label.into());
        self
    }

    /// An item that runs longer is answered by a [`Timeout`](crate::ErrorKind::Timeout) error; its worker is
    /// ended and replaced, and no other item is harmed. It may run a twentieth longer. Time in which host and
    /// workers are stopped (Ctrl-Z) does not count, nor does time in which the item waits for this program's
    /// own output to be read. The `init` of `fastmap_init` has no limit.
    ///
    /// # Panics
    /// If `limit` is zero.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use std::time::Duration;
    ///
    /// use fastmap::{ErrorKind, prelude::*};
    ///
    /// let sleep = |seconds: u64| std::thread::sleep(Duration::from_secs(seconds));
    /// let answers: Vec<_> = [0, 3600, 0].into_iter().fastmap(sleep).item_timeout(Duration::from_millis(200)).collect();
    /// assert!(answers[0].is_ok() && answers[2].is_ok());
    /// assert_eq!(answers[1].as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    /// ```
    pub fn item_timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "an item timeout of 0 leaves no item any time");
        self.engine.item_timeout = Some(limit);
        self
    }

    /// What happens when an item fails. By default the map yields the error in the item's place and goes on.
    ///
    /// [`OnError::Stop`] ends the map at the first failure that is *known*, without waiting for earlier items
    /// that still run: nothing more is read, and queued and running items are cancelled. The map then yields
    /// the results that have arrived, in order up to the first gap; then the one `Err`, whose
    /// [`Error::index`](crate::Error::index) may come after items that were never answered; then `None`. A
    /// worker reports a failure at once, not with the rest of its batch. A running item is ended with its
    /// worker once that has answered nothing for 0.1 s.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    /// use fastmap::OnError;
    ///
    /// let mut answers = (0..).fastmap(|n: u64| 100 / n.abs_diff(3)).on_error(OnError::Stop);
    /// let error = answers.find_map(Result::err).unwrap();
    /// assert_eq!(error.index(), Some(3));
    /// assert!(answers.next().is_none());
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.engine.limits.on_error = on_error;
        self
    }

    /// An item that fails is tried up to `retries` times more before its error is yielded: for functions that
    /// fail now and then. By default 0.
    ///
    /// Retries apply to all failures in a worker: a panic, a crash, a timeout, a result that can't be
    /// written. An item that is tried again is sent alone, as soon as there is a place for it; the order of
    /// results and the read-ahead do not change. After a death of its worker an item is always tried a second
    /// time (more often after `SIGKILL` and `SIGTERM`, which come from outside), and the retries come on top
    /// of those tries. [`Error::attempts`](crate::Error::attempts) has the count.
    ///
    /// Encoded items that workers have are kept in this process until they are answered, as they are without
    /// retries.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// let error = [0u64].into_iter().fastmap(|n: u64| 1 / n).retries(2).next().unwrap().unwrap_err();
    /// assert_eq!(error.attempts(), 3);
    /// assert!(error.to_string().contains("tried 3 times"));
    /// ```
    pub fn retries(mut self, retries: u32) -> Self {
        self.engine.attempts.retries = retries;
        self
    }

    /// The map ends at the latest this long after its first `next()`. Items without an answer by then are cancelled, running
    /// or not: results that have arrived come in order up to the first gap, then one [`Timeout`](crate::ErrorKind::Timeout) error
    /// without an index, then `None`. A map whose items are all answered in time is read at leisure.
    ///
    /// It is looked at inside `next()`, before each pull and at least every 0.1 s of a wait for results. A
    /// consumer that does not ask holds it up, and so does an input whose own `next` waits, which nothing can
    /// interrupt: give such items through a [`feed()`](crate::feed()), in which the map never waits beyond
    /// its deadline.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use std::time::Duration;
    ///
    /// use fastmap::{ErrorKind, prelude::*};
    ///
    /// let sleep = |seconds: u64| std::thread::sleep(Duration::from_secs(seconds));
    /// let mut answers = [3600].into_iter().fastmap(sleep).deadline(Duration::from_millis(200));
    /// assert_eq!(answers.next().unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    /// assert!(answers.next().is_none());
    /// ```
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.engine.limits.deadline = Some(limit);
        self
    }

    /// Finished items survive this process: results are recorded in the file at `path`, and a map that is started again
    /// with the same path, function and input goes on where the last one was, in whatever way that ended (power loss
    /// included). A file that isn't there is made, by the first `next()`; it is kept when the map is over, which
    /// then costs no execution at all. Items that fail are not recorded and are tried again.
    ///
    /// What was answered is on the disk a few milliseconds later. Executed again is what had no answer or was not there
    /// yet: together never more than the batches that may be in flight, as a new one is sent only when there is room.
    ///
    /// **The same input** means the same bytes at the same index: the input is read again, and each recorded
    /// run of items is compared by SHA-256 of their encoded bytes. So an input in random order (of a `HashMap`) has
    /// changed, and so has one whose items hold such a map: sort it. More items behind the recorded ones are
    /// simply new; fewer are a change. **The same function** means the same executable and the same context; see
    /// [`checkpoint_version`](Fastmap::checkpoint_version).
    ///
    /// The hashes find mistakes and damage. They don't protect against a program that can write to the file: the file
    /// must be as trusted as the program.
    ///
    /// # Errors
    /// The map yields one [`Checkpoint`](crate::ErrorKind::Checkpoint) error, without an index, and ends if the input or the
    /// function is another one, if the file is not a checkpoint, is damaged, or is in use by another map, or if it can't
    /// be written (then all that was recorded before stays, and the map can be started again when there is room).
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// # let folder = std::env::temp_dir().join(format!("fastmap-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder).unwrap();
    /// # let path = folder.join("squares.checkpoint");
    /// for _ in 0..2 {
    ///     // The second time nothing is computed.
    ///     let squares = (0..100u64).fastmap(|n| n * n).checkpoint(&path);
    ///     assert_eq!(squares.sum::<Result<u64, _>>()?, 328_350);
    /// }
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn checkpoint(mut self, path: impl Into<PathBuf>) -> Self {
        self.engine.checkpoint.set_path(path.into());
        self
    }

    /// Recorded results stay good for another build of this program, as long as `key` and the function's path and types
    /// are the same: to be given from the first run on, and changed whenever the function's results, or the fields of
    /// the types that it takes or gives, change. Without it each build is another function.
    ///
    /// Closures of one function have the same path: give each of their checkpoints a key of its own.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// # let folder = std::env::temp_dir().join(format!("fastmap-doc-version-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder).unwrap();
    /// # let path = folder.join("squares.checkpoint");
    /// let squares = (0..100u64).fastmap(|n| n * n).checkpoint(&path).checkpoint_version("squares, 1");
    /// assert_eq!(squares.sum::<Result<u64, _>>()?, 328_350);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn checkpoint_version(mut self, key: impl Into<String>) -> Self {
        self.engine.checkpoint.set_version(key.into());
        self
    }

    /// Writes a report of the map to `path` when it is over, or dropped: what each worker did when, throughput, how long
    /// items took, stragglers, retries, deaths, and in two or three sentences what limited it. One HTML file that needs
    /// nothing else, with its figures as JSON in it; a path that ends in `.json` gets the figures alone. Overrides
    /// [`Options::timings`](crate::Options::timings).
    ///
    /// Of several maps in one process with one path, the first has the path, the next `name-2.html` and so on, up to
    /// `name-100.html`; further ones are not recorded, and one warning says so. A file that is there is overwritten. While
    /// the map runs the file says that it does.
    ///
    /// It costs a few hundred nanoseconds a batch. The file (up to 2 MB) is written by a thread of its own: it is whole when the
    /// process exits, or once the [`FastmapConfig`](crate::FastmapConfig) is dropped.
    ///
    /// # Errors
    /// If the file can't be written, the map yields one [`Io`](crate::ErrorKind::Io) error and ends before anything is
    /// read. A disk that is full at the end causes a warning only, because the results have been delivered by then.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// # let path = std::env::temp_dir().join(format!("fastmap-doc-timings-{}.html", std::process::id()));
    /// let config = fastmap::init(fastmap::Options::new())?;
    /// let squares = config.fastmap(|n: u64| n * n, 0..100).timings(&path);
    /// assert_eq!(squares.sum::<Result<u64, _>>()?, 328_350);
    /// drop(config);
    /// assert!(std::fs::read_to_string(&path).unwrap().contains("Throughput"));
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn timings(mut self, path: impl Into<PathBuf>) -> Self {
        self.engine.report.write_timings(path.into());
        self
    }

    /// Whether progress is shown: by a bar where stderr is a terminal, else by a line now and then. Overrides the
    /// verbosity. It is looked at inside `next()`: an input that blocks, or a consumer that does not ask, holds it up.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// let quiet = (0..100u64).fastmap(|n| n * n).progress(false);
    /// assert_eq!(quiet.sum::<Result<u64, _>>()?, 328_350);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn progress(mut self, show: bool) -> Self {
        self.engine.report.show_progress(show);
        self
    }
}
