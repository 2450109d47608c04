//! The functions that all contestants run, each a type, so that every contestant can name it in its own way: by a
//! pointer, by where it stands in the executable, by its name in a worker's environment.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contestant::wire::Wire;

/// A function with the types of its items and results.
pub(crate) trait Work: Copy + Send + Sync + 'static {
    /// How a worker that is started by hand finds it.
    const NAME: &'static str;
    type In: Value;
    type Out: Value;
    fn call(input: Self::In) -> Self::Out;
}

/// What travels: by serde, or by hand.
pub(crate) trait Value: Serialize + DeserializeOwned + Wire + Send + 'static {}
impl<V: Serialize + DeserializeOwned + Wire + Send + 'static> Value for V {}

/// The cheapest item: a square root.
#[derive(Clone, Copy)]
pub(crate) struct Sqrt;

impl Work for Sqrt {
    const NAME: &'static str = "sqrt";
    type In = u64;
    type Out = f64;
    fn call(input: u64) -> f64 {
        (black_box(input) as f64).sqrt()
    }
}

/// That many turns of a loop which the compiler can't shorten; [`turns`] says how many a time takes.
#[derive(Clone, Copy)]
pub(crate) struct Spin;

impl Work for Spin {
    const NAME: &'static str = "spin";
    type In = u64;
    type Out = u64;
    fn call(input: u64) -> u64 {
        (0..input).fold(input, |state, turn| black_box(state.wrapping_mul(6_364_136_223_846_793_005) ^ turn))
    }
}

/// That many turns, and a segmentation fault for [`Lethal::ITEM`].
#[derive(Clone, Copy)]
pub(crate) struct Lethal;

impl Lethal {
    pub(crate) const ITEM: u64 = u64::MAX;
}

impl Work for Lethal {
    const NAME: &'static str = "lethal";
    type In = u64;
    type Out = u64;
    fn call(input: u64) -> u64 {
        if input == Lethal::ITEM {
            // Once is not enough: the handler of Rust's runtime takes the first, and leaves the second to the kernel.
            loop {
                let _ = raise(Signal::SIGSEGV);
            }
        }
        Spin::call(input)
    }
}

/// That many microseconds of this thread's CPU time, however fast the core is at the moment.
#[derive(Clone, Copy)]
pub(crate) struct Burn;

impl Work for Burn {
    const NAME: &'static str = "burn";
    type In = u64;
    type Out = u64;
    fn call(input: u64) -> u64 {
        let clock = || {
            clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
                .map(Duration::from)
                .expect("each thread has a CPU clock")
        };
        let end = clock() + Duration::from_micros(input);
        while clock() < end {
            black_box(Spin::call(500));
        }
        input
    }
}

/// Gives its bytes back, one of them changed.
#[derive(Clone, Copy)]
pub(crate) struct Echo;

impl Work for Echo {
    const NAME: &'static str = "echo";
    type In = Vec<u8>;
    type Out = Vec<u8>;
    fn call(mut input: Vec<u8>) -> Vec<u8> {
        if let Some(first) = input.first_mut() {
            *first ^= 1;
        }
        input
    }
}

/// Turns of [`Spin`] that take `time` on a core of this machine: the fastest of ten trials decides.
pub(crate) fn turns(time: Duration) -> u64 {
    static PER_SECOND: OnceLock<f64> = OnceLock::new();
    const TRIAL: u64 = 4_000_000;
    let per_second = PER_SECOND.get_or_init(|| {
        let fastest = (0..10)
            .map(|_| {
                let begun = Instant::now();
                black_box(Spin::call(black_box(TRIAL)));
                begun.elapsed()
            })
            .min()
            .expect("ten trials");
        TRIAL as f64 / fastest.as_secs_f64()
    });
    (time.as_secs_f64() * per_second) as u64
}
