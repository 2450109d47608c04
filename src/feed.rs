//! Inputs that are filled while their map runs. A map never waits in one while results are outstanding: it
//! asks the [`Level`] of a feed instead, which knows how many items are there.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use fastmap_backends::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};

/// Makes an input that is filled while its map runs: by other threads, or by the consumer of the results.
///
/// A map pulls its input inside `next()`, ahead of the results. Where an iterator waits in there (for a line
/// of a pipe, a message of a channel), results that are finished meanwhile wait as well, and an input that
/// waits for a result of its own map waits for ever. In a feed the map does not wait: it gives results as
/// they are finished, takes items as they come, and keeps to its [`deadline`](crate::Fastmap::deadline).
///
/// That holds for adapters around a feed, too (`map`, `enumerate`, `inspect`), but not for those that leave
/// items out (`filter`), which may have to wait for the next one.
///
/// # Examples
///
/// Lines that come when they come. Each length is printed as soon as it is known:
///
/// ```no_run
/// # fastmap::enter();
/// let (feeder, feed) = fastmap::feed();
/// std::thread::spawn(move || {
///     for line in std::io::stdin().lines().map_while(Result::ok) {
///         feeder.push(line);
///     }
///     // The feed ends with its last feeder.
/// });
/// for length in fastmap::fastmap(|line: String| line.len(), feed) {
///     println!("{}", length?);
/// }
/// # Ok::<(), fastmap::Error>(())
/// ```
///
/// Work that leads to more work, which ends when all is answered:
///
/// ```standalone_crate
/// # fastmap::enter();
/// let (feeder, feed) = fastmap::feed();
/// feeder.push(1u64);
/// let mut seen = 0;
/// for children in fastmap::fastmap(|n: u64| [2 * n, 2 * n + 1], feed.work_list()) {
///     seen += 1;
///     for child in children?.into_iter().filter(|child| *child < 100) {
///         feeder.push(child);
///     }
/// }
/// assert_eq!(seen, 99);
/// # Ok::<(), fastmap::Error>(())
/// ```
pub fn feed<T>() -> (Feeder<T>, Feed<T>) {
    let level = Arc::new(Level::default());
    level.lock().feeders = 1;
    let items = Arc::new(Mutex::new(VecDeque::new()));
    let feeder = Feeder { level: Arc::clone(&level), items: Arc::clone(&items) };
    (feeder, Feed { level, items })
}

/// Fills a [`Feed`]. The feed ends when its last feeder is dropped.
///
/// # Examples
///
/// ```
/// let (feeder, feed) = fastmap::feed();
/// let other = feeder.clone();
/// std::thread::spawn(move || other.push(1)).join().unwrap();
/// drop(feeder);
/// assert_eq!(feed.collect::<Vec<_>>(), [1]);
/// ```
pub struct Feeder<T> {
    level: Arc<Level>,
    items: Arc<Mutex<VecDeque<T>>>,
}

impl<T> Feeder<T> {
    /// Adds an item, without waiting: how much waits in the feed is bounded only by what is pushed.
    ///
    /// Returns `false` if the feed is gone, because its map is over; the item is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// let (feeder, feed) = fastmap::feed();
    /// assert!(feeder.push("an item"));
    /// drop(feed);
    /// assert!(!feeder.push("another"));
    /// ```
    pub fn push(&self, item: T) -> bool {
        let mut state = self.level.lock();
        if state.dropped {
            return false;
        }
        self.items.lock_unpoisoned().push_back(item);
        state.queued += 1;
        self.level.more.notify_one();
        true
    }
}

impl<T> Clone for Feeder<T> {
    fn clone(&self) -> Self {
        self.level.lock().feeders += 1;
        Feeder { level: Arc::clone(&self.level), items: Arc::clone(&self.items) }
    }
}

impl<T> Drop for Feeder<T> {
    fn drop(&mut self) {
        self.level.lock().feeders -= 1;
        self.level.more.notify_one();
    }
}

impl<T> fmt::Debug for Feeder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feeder").field("level", &self.level).finish_non_exhaustive()
    }
}

/// An input that is filled while its map runs; made by [`feed`].
///
/// As a plain iterator it waits for the next item, and ends when its last [`Feeder`] is dropped.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// let (feeder, feed) = fastmap::feed();
/// let thread = std::thread::spawn(move || (1..=3u64).all(|n| feeder.push(n)));
/// let squares: Vec<u64> = fastmap::fastmap(|n: u64| n * n, feed).collect::<Result<_, _>>()?;
/// assert_eq!(squares, [1, 4, 9]);
/// assert!(thread.join().unwrap());
/// # Ok::<(), fastmap::Error>(())
/// ```
pub struct Feed<T> {
    level: Arc<Level>,
    items: Arc<Mutex<VecDeque<T>>>,
}

impl<T> Feed<T> {
    /// Makes the feed end also when it is empty and each item that was taken from it is answered: then no
    /// result can lead to a further item. For feeds that the consumer of the results fills; as a plain
    /// iterator it ends when it is empty.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// let (feeder, feed) = fastmap::feed();
    /// feeder.push(10u32);
    /// let mut steps = 0;
    /// for next in fastmap::fastmap(|n: u32| n - 1, feed.work_list()) {
    ///     steps += 1;
    ///     let next = next?;
    ///     if next > 0 {
    ///         feeder.push(next);
    ///     }
    /// }
    /// assert_eq!(steps, 10);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    #[must_use]
    pub fn work_list(self) -> Self {
        self.level.lock().work_list = true;
        self
    }
}

impl<T> Iterator for Feed<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let mut state = self.level.lock();
        while state.queued == 0 {
            if state.feeders == 0 || state.work_list {
                return None;
            }
            state = self.level.more.wait_unpoisoned(state);
        }
        state.queued -= 1;
        self.items.lock_unpoisoned().pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A map that asks who is behind its input gets this one's level.
        let _ending_thread = ASKED.try_with(|asked| {
            let mut asked = asked.borrow_mut();
            if !matches!(*asked, Asked::Nothing) {
                *asked = Asked::Found(Arc::clone(&self.level));
            }
        });
        let state = self.level.lock();
        (state.queued, (state.feeders == 0).then_some(state.queued))
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        let mut state = self.level.lock();
        state.dropped = true;
        state.queued = 0;
        self.items.lock_unpoisoned().clear();
    }
}

impl<T> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("level", &self.level).finish_non_exhaustive()
    }
}

thread_local! {
    /// Set by [`Level::behind`], and answered by a feed when it is asked for its size.
    static ASKED: RefCell<Asked> = const { RefCell::new(Asked::Nothing) };
}

/// What this thread asks of iterators.
#[derive(Default)]
enum Asked {
    #[default]
    Nothing,
    /// Which feed they are made of.
    Level,
    Found(Arc<Level>),
}

/// How much there is in a feed.
#[derive(Debug, Default)]
pub(crate) struct Level {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Items that are there.
    queued: usize,
    feeders: usize,
    /// The feed is gone.
    dropped: bool,
    work_list: bool,
}

/// What a feed can give without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    /// This many items, or the end.
    Now(usize),
    /// Nothing yet.
    Later,
}

impl Level {
    /// The level of the feed that an iterator is made of, whatever adapters are around it: they ask it for
    /// its size.
    pub(crate) fn level_of(iterator: &impl Iterator) -> Option<Arc<Level>> {
        ASKED.set(Asked::Level);
        let _the_answer_is_in_asked = iterator.size_hint();
        match ASKED.take() {
            Asked::Found(level) => Some(level),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock_unpoisoned()
    }

    pub(crate) fn supply(&self) -> Supply {
        let state = self.lock();
        match state.queued {
            0 if state.feeders > 0 && !state.dropped => Supply::Later,
            0 => Supply::Now(1),
            queued => Supply::Now(queued),
        }
    }

    /// Whether it ends when it is empty and all is answered.
    pub(crate) fn is_work_list(&self) -> bool {
        self.lock().work_list
    }

    /// Waits until there is something to take, or the end, no longer than `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let waits = |state: &mut State| state.queued == 0 && state.feeders > 0;
        drop(self.more.wait_timeout_while(self.lock(), left, waits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_found_behind_adapters_and_nothing_else_is() {
        let (feeder, feed) = feed::<u32>();
        feeder.push(1);
        let input = feed.map(|n| n + 1).enumerate().inspect(|_| ());
        let level = Level::level_of(&input).expect("it is made of a feed");
        assert_eq!(level.supply(), Supply::Now(1));
        let mut boxed: Box<dyn Iterator<Item = (usize, u32)>> = Box::new(input);
        assert!(Level::level_of(&boxed).is_some());
        assert_eq!(boxed.next(), Some((0, 2)));
        assert_eq!(level.supply(), Supply::Later);
        drop(feeder);
        assert_eq!((level.supply(), boxed.next()), (Supply::Now(1), None));
        assert!(Level::level_of(&(0..3)).is_none());
    }

    #[test]
    fn a_feed_ends_with_its_last_feeder_and_pushes_end_with_the_feed() {
        let (feeder, mut feed) = feed();
        let other = feeder.clone();
        assert!(feeder.push(1) && other.push(2));
        drop(feeder);
        assert_eq!((feed.size_hint(), feed.next()), ((2, None), Some(1)));
        drop(other);
        assert_eq!((feed.size_hint(), feed.next(), feed.next()), ((1, Some(1)), Some(2), None));

        let (feeder, feed) = super::feed();
        drop(feed);
        assert!(!feeder.push(3));
    }
}
