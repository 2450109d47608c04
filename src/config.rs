//! A configuration: settings and the backend that its maps share, and the one that the free functions use.
//! Made by [`init`] and [`global_init`]; its methods make the adapters of `map`.

use std::sync::{Arc, OnceLock};

use fastmap_backends::local;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::map::inline::function;
use crate::map::{Encode, Fastmap, MapEngine};
use crate::options::{ExecPolicy, Options};
use crate::report::warn;
use crate::runtime::{Runtime, log_differences};
use crate::worker::typed_loop::{ByRef, Init, Plain, With};

/// Owns the workers of its maps. Cheap to clone; the clones share the workers, and the last one dropped (with the
/// last map made from it) ends them.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::Options;
///
/// let config = fastmap::init(Options::new().local_processes(2))?;
/// let squares: Vec<u64> = config.fastmap(|n: u64| n * n, 0..100).collect::<Result<_, _>>()?;
/// assert_eq!(squares[99], 9801);
/// # Ok::<(), fastmap::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FastmapConfig(Arc<Runtime>);

/// Makes a configuration. No process is started before the first map is asked for its first item.
///
/// # Errors
/// [`ErrorKind::Options`] if an option or an environment variable can't be used, with its name, value and what is
/// allowed, or if [`Sandbox::Require`](crate::Sandbox::Require) asks for what this kernel
/// lacks. The service is not contacted yet: the first map reports whether it accepts the secret.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::Options;
///
/// let config = fastmap::init(Options::new())?;
/// let squares: Vec<u64> = config.fastmap(|n: u64| n * n, 0..3).collect::<Result<_, _>>()?;
/// assert_eq!(squares, [0, 1, 4]);
/// # Ok::<(), fastmap::Error>(())
/// ```
pub fn init(options: Options) -> Result<FastmapConfig, Error> {
    if local::marked() && !local::inside_worker() {
        local::leave_unentered();
    }
    let settings = options.resolve(|name| std::env::var_os(name))?;
    if !local::inside_worker() && settings.backend.is_none() {
        log_differences(&settings);
    }
    Ok(FastmapConfig(Arc::new(Runtime::new(settings)?)))
}

static GLOBAL: OnceLock<FastmapConfig> = OnceLock::new();

/// Makes the configuration that [`fastmap`](crate::fastmap()) and [`IteratorExt::fastmap`] use.
///
/// # Errors
/// As [`init`]; and a second call is an [`ErrorKind::Options`] error.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::{Options, prelude::*};
///
/// fastmap::global_init(Options::new().local_processes(2))?;
/// // Anywhere in the program:
/// assert_eq!((0..3u64).fastmap(|n| n * n).sum::<Result<u64, _>>()?, 5);
/// assert!(fastmap::global_init(Options::new()).is_err());
/// # Ok::<(), fastmap::Error>(())
/// ```
pub fn global_init(options: Options) -> Result<(), Error> {
    let again = || Error::new(ErrorKind::Options, "global_init was called before; it can be called once");
    if GLOBAL.get().is_some() {
        return Err(again());
    }
    GLOBAL.set(init(options)?).map_err(|_| again())
}

/// The global configuration; without one, a local one and a warning.
fn global() -> &'static FastmapConfig {
    static FALLBACK: OnceLock<FastmapConfig> = OnceLock::new();
    GLOBAL.get().unwrap_or_else(|| {
        FALLBACK.get_or_init(|| {
            if !local::inside_worker() {
                warn("neither init nor global_init was called: running locally, with the default options");
            }
            let options = Options::new().exec_policy(ExecPolicy::Local);
            init(options).unwrap_or_else(|error| FastmapConfig(Arc::new(Runtime::broken(&error))))
        })
    })
}

/// [`FastmapConfig::fastmap`] with the global configuration. Without one (see [`global_init`]) it runs locally,
/// whatever the environment says of the policy, and one warning says so.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// let lengths: Vec<usize> =
///     fastmap::fastmap(|word: String| word.len(), ["a", "bc"].map(String::from)).collect::<Result<_, _>>()?;
/// assert_eq!(lengths, [1, 2]);
/// # Ok::<(), fastmap::Error>(())
/// ```
pub fn fastmap<F, T, R, I>(func: F, iterable: I) -> Fastmap<I::IntoIter, R>
where
    F: Fn(T) -> R + Copy + Send + Sync + 'static,
    I: IntoIterator<Item = T>,
    T: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    const { assert!(size_of::<F>() == 0, "{}", NO_CAPTURES!()) };
    let _: F = func;
    global().map_plain::<F, T, R, I>(iterable)
}

/// What the compiler says of a closure that captures something.
macro_rules! NO_CAPTURES {
    () => {
        "fastmap: the function must not capture variables: it runs in another process. Hand what it needs to \
         fastmap_with(context, |context, item| ...), build it once per worker by fastmap_init, or put it into the \
         items"
    };
}
use NO_CAPTURES;

impl FastmapConfig {
    /// Maps `iterable` by `func` in worker processes; the results come in order, lazily.
    ///
    /// `func` is a `fn` or a closure that captures nothing. It runs in another process of this executable: it sees
    /// none of this process's variables, statics or thread-locals. See [`Fastmap`] for laziness, order and bounds.
    ///
    /// # Errors
    /// The iterator yields an [`Error`] for each item that failed, in its place.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// # let config = fastmap::init(fastmap::Options::new())?;
    /// fn slow_square(n: u32) -> u64 {
    ///     u64::from(n).pow(2)
    /// }
    /// let squares: Vec<u64> = config.fastmap(slow_square, 0..10).collect::<Result<_, _>>()?;
    /// # assert_eq!(squares[9], 81);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    ///
    /// A closure that captures does not compile:
    ///
    /// ```compile_fail,E0080
    /// # let config = fastmap::init(fastmap::Options::new()).unwrap();
    /// let factor = 3;
    /// let tripled = config.fastmap(move |n: u32| n * factor, 0..10);
    /// ```
    pub fn fastmap<F, T, R, I>(&self, func: F, iterable: I) -> Fastmap<I::IntoIter, R>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        I: IntoIterator<Item = T>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        const { assert!(size_of::<F>() == 0, "{}", NO_CAPTURES!()) };
        let _: F = func;
        self.map_plain::<F, T, R, I>(iterable)
    }

    /// Behind each public way to map by a plain function, all of which have checked that `F` captures nothing.
    fn map_plain<F, T, R, I>(&self, iterable: I) -> Fastmap<I::IntoIter, R>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        I: IntoIterator<Item = T>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let engine = MapEngine::new(
            Arc::clone(&self.0),
            Plain::<F, T, R>::ENTRY,
            None,
            codec::stride::<T>(),
            codec::stride::<R>(),
        );
        let map = Fastmap::by_value(iterable.into_iter(), engine);
        if self.0.inlines() { map.inline(function::Plain::<F>::new()) } else { map }
    }

    /// As [`fastmap`](FastmapConfig::fastmap), with a context that every call gets by reference.
    ///
    /// The context is encoded once, when the map begins, and sent once to each worker; it is freed there at the end
    /// of the map.
    ///
    /// # Errors
    /// A context that can't be written or read ends the map with one [`ErrorKind::Serialize`] error.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// # let config = fastmap::init(fastmap::Options::new())?;
    /// let primes = vec![2u64, 3, 5, 7];
    /// let divisors: Vec<usize> = config
    ///     .fastmap_with(primes, |primes: &Vec<u64>, n: u64| primes.iter().filter(|p| n % **p == 0).count(), 1..100)
    ///     .collect::<Result<_, _>>()?;
    /// # assert_eq!(divisors[29], 3);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn fastmap_with<C, F, T, R, I>(&self, context: C, func: F, iterable: I) -> Fastmap<I::IntoIter, R>
    where
        C: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(&C, T) -> R + Copy + Send + Sync + 'static,
        I: IntoIterator<Item = T>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        const { assert!(size_of::<F>() == 0, "{}", NO_CAPTURES!()) };
        let _: F = func;
        let new = |context: Option<Encode>| {
            let (items, results) = (codec::stride::<T>(), codec::stride::<R>());
            MapEngine::new(Arc::clone(&self.0), With::<F, C, T, R>::ENTRY, context, items, results)
        };
        let callee = function::With::<F, C>::new(context);
        if self.0.inlines() {
            return Fastmap::by_value(iterable.into_iter(), new(None)).inline(callee);
        }
        Fastmap::by_value(iterable.into_iter(), new(Some(Box::new(move || callee.encode()))))
    }

    /// As [`fastmap`](FastmapConfig::fastmap), with a state that `init` builds once in each worker: a parsed model,
    /// a compiled expression, a handle of a C library. It need not be serialisable, and is never shared.
    ///
    /// After a panic of `func` the state is built anew.
    ///
    /// # Errors
    /// An `init` that panics ends the map with one [`ErrorKind::Panic`] error.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// # let config = fastmap::init(fastmap::Options::new())?;
    /// use std::collections::HashMap;
    ///
    /// let cached: Vec<u64> = config
    ///     .fastmap_init(HashMap::new, |cache: &mut HashMap<u64, u64>, n: u64| *cache.entry(n % 3).or_insert(n % 3), 0..9)
    ///     .collect::<Result<_, _>>()?;
    /// # assert_eq!(cached, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn fastmap_init<N, F, S, T, R, I>(&self, init: N, func: F, iterable: I) -> Fastmap<I::IntoIter, R>
    where
        N: Fn() -> S + Copy + Send + Sync + 'static,
        F: Fn(&mut S, T) -> R + Copy + Send + Sync + 'static,
        S: 'static,
        I: IntoIterator<Item = T>,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        const { assert!(size_of::<N>() == 0, "{}", NO_CAPTURES!()) };
        const { assert!(size_of::<F>() == 0, "{}", NO_CAPTURES!()) };
        let (_, _): (N, F) = (init, func);
        let engine = MapEngine::new(
            Arc::clone(&self.0),
            Init::<N, F, S, T, R>::ENTRY,
            None,
            codec::stride::<T>(),
            codec::stride::<R>(),
        );
        Fastmap::by_value(iterable.into_iter(), engine)
    }

    /// As [`fastmap`](FastmapConfig::fastmap), for items that stay here: they are encoded from their references,
    /// and nothing is cloned in this process.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// # let config = fastmap::init(fastmap::Options::new())?;
    /// let words = vec!["alpha".to_string(), "beta".to_string()];
    /// let lengths: Vec<usize> =
    ///     config.fastmap_ref(|word: &String| word.len(), &words).collect::<Result<_, _>>()?;
    /// # assert_eq!(lengths, [5, 4]);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    pub fn fastmap_ref<'a, F, T, R, I>(&self, func: F, iterable: I) -> Fastmap<I::IntoIter, R>
    where
        F: Fn(&T) -> R + Copy + Send + Sync + 'static,
        I: IntoIterator<Item = &'a T>,
        T: Serialize + DeserializeOwned + 'a,
        R: Serialize + DeserializeOwned,
    {
        const { assert!(size_of::<F>() == 0, "{}", NO_CAPTURES!()) };
        let _: F = func;
        let engine = MapEngine::new(
            Arc::clone(&self.0),
            ByRef::<F, T, R>::ENTRY,
            None,
            codec::stride::<T>(),
            codec::stride::<R>(),
        );
        let map = Fastmap::by_ref(iterable.into_iter(), engine);
        if self.0.inlines() { map.inline(function::ByRef::<F>::new()) } else { map }
    }
}

/// Adds [`fastmap`](IteratorExt::fastmap) to every iterator.
///
/// # Examples
///
/// ```standalone_crate
/// # fastmap::enter();
/// use fastmap::prelude::*;
///
/// let lengths = ["a", "bc"].map(String::from).into_iter().fastmap(|word: String| word.len());
/// assert_eq!(lengths.collect::<Result<Vec<_>, _>>()?, [1, 2]);
/// # Ok::<(), fastmap::Error>(())
/// ```
pub trait IteratorExt: Iterator + Sized {
    /// [`fastmap`](crate::fastmap()) of this iterator: the global configuration maps it.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fastmap::enter();
    /// use fastmap::prelude::*;
    ///
    /// let total: u64 = (0..1000u64).fastmap(|n| n * n).sum::<Result<u64, _>>()?;
    /// assert_eq!(total, 332_833_500);
    /// # Ok::<(), fastmap::Error>(())
    /// ```
    fn fastmap<F, R>(self, func: F) -> Fastmap<Self, R>
    where
        F: Fn(Self::Item) -> R + Copy + Send + Sync + 'static,
        Self::Item: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        const { assert!(size_of::<F>() == 0, "{}", NO_CAPTURES!()) };
        let _: F = func;
        global().map_plain::<F, Self::Item, R, Self>(self)
    }
}

impl<I: Iterator> IteratorExt for I {}
