//! Micro-benchmarks, by divan: `scripts/bench micro`. What the functions cost that are mapped, what it costs to encode and
//! decode (fastmap's own path, over a backend that answers in this process), and the parts below it.

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use fastmap::backends::batch_sizing::{Observed, batch_items};
use fastmap::backends::{Batch, BatchBuilder, BatchId, Items, JobId, Targets};
use fastmap::{FastmapConfig, Options, Verbosity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contestant::inside::{Answers, Inside};
use crate::functions::{Spin, Sqrt, Work};

/// The first word of the command line.
pub(crate) const WORD: &str = "micro";

/// Items of a batch of numbers that has reached its bytes.
const BATCH: usize = 16 * 1024;

/// What is encoded and decoded.
trait Sample: Serialize + DeserializeOwned + Clone + 'static {
    const COUNT: usize = BATCH;
    fn at(index: usize) -> Self;
    /// Bytes that it holds.
    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

impl Sample for u64 {
    fn at(index: usize) -> Self {
        index as u64
    }
}

impl Sample for f64 {
    fn at(index: usize) -> Self {
        index as f64
    }
}

impl Sample for (u64, f64) {
    fn at(index: usize) -> Self {
        (index as u64, index as f64)
    }
}

impl Sample for String {
    fn at(index: usize) -> Self {
        format!("the item at {index:08}")
    }
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// 1 MiB.
impl Sample for Vec<u8> {
    const COUNT: usize = 16;
    fn at(index: usize) -> Self {
        vec![index as u8; 1 << 20]
    }
    fn bytes(&self) -> usize {
        self.len()
    }
}

/// As a program's own types are: an option, a list, a struct in it.
#[derive(Clone, Serialize, Deserialize)]
struct Nested {
    id: u64,
    name: Option<String>,
    places: Vec<Place>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Place {
    at: (f64, f64),
    weight: f32,
}

impl Sample for Nested {
    fn at(index: usize) -> Self {
        let place = |of: usize| Place { at: (index as f64, of as f64), weight: of as f32 };
        let name = (!index.is_multiple_of(3)).then(|| String::at(index));
        Nested { id: index as u64, name, places: (0..4).map(place).collect() }
    }
    fn bytes(&self) -> usize {
        8 + self.name.as_ref().map_or(0, String::len) + self.places.len() * 20
    }
}

fn inside(answers: Answers) -> FastmapConfig {
    let options = Options::new().backend(Inside(answers)).verbosity(Verbosity::Quiet);
    fastmap::init(options).expect("these options can be used")
}

fn counted<'a, 'b, T: Sample>(bencher: Bencher<'a, 'b>, items: &[T]) -> Bencher<'a, 'b> {
    bencher
        .counter(ItemsCount::new(items.len()))
        .counter(BytesCount::new(items.iter().map(Sample::bytes).sum::<usize>()))
}

/// The items are pulled, encoded and sent; one byte comes back for each.
#[divan::bench(types = [u64, f64, (u64, f64), String, Nested, Vec<u8>])]
fn encode<T: Sample>(bencher: Bencher) {
    let (config, items) = (inside(Answers::Bytes), (0..T::COUNT).map(T::at).collect::<Vec<T>>());
    counted(bencher, &items).bench_local(|| {
        for result in config.fastmap_ref(|_: &T| 0_u8, black_box(&items)) {
            black_box(result.expect("a byte can be read"));
        }
    });
}

/// The same, and each comes back and is decoded; a copy of the bytes lies between.
#[divan::bench(types = [u64, f64, (u64, f64), String, Nested, Vec<u8>])]
fn there_and_back<T: Sample>(bencher: Bencher) {
    let (config, items) = (inside(Answers::Echo), (0..T::COUNT).map(T::at).collect::<Vec<T>>());
    counted(bencher, &items).bench_local(|| {
        for result in config.fastmap_ref(T::clone, black_box(&items)) {
            black_box(result.expect("what was written can be read"));
        }
    });
}

fn filled() -> Batch {
    let mut builder = BatchBuilder::new(Some(8));
    builder.reserve(8 * BATCH);
    let mut slots = builder.slots(BATCH as u32);
    for number in 0..BATCH as u64 {
        slots.next().copy_from_slice(&number.to_le_bytes());
    }
    drop(slots);
    builder.finish(JobId(1), BatchId(1), 0, 0)
}

/// A batch of numbers, its buffer used again.
#[divan::bench]
fn fill_batch(bencher: Bencher) {
    bencher.counter(ItemsCount::new(BATCH)).bench_local(filled);
}

/// What a worker and the host do to find each item.
#[divan::bench]
fn read_batch(bencher: Bencher) {
    let batch = filled();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        Items::new(black_box(batch.payload()), batch.stride()).map(number).fold(0, u64::wrapping_add)
    });
}

/// The sizing rule: asked once a batch.
#[divan::bench]
fn size_batch(bencher: Bencher) {
    let observed = Observed {
        workers: 2,
        remaining: Some(1_000_000),
        item_time: Some(Duration::from_micros(3)),
        item_bytes: 8.0,
        last: 4096,
    };
    let targets =
        Targets { work: Duration::from_millis(20), least: Duration::from_micros(100), bytes: 256 * 1024 };
    bencher.bench_local(|| batch_items(black_box(&observed), black_box(&targets)));
}

/// The cheapest function that is mapped.
#[divan::bench]
fn sqrt(bencher: Bencher) {
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for number in 0..BATCH as u64 {
            black_box(Sqrt::call(number));
        }
    });
}

/// The function whose items take what they are told to: a thousand of its turns.
#[divan::bench]
fn spin(bencher: Bencher) {
    bencher.counter(ItemsCount::new(1000usize)).bench_local(|| Spin::call(black_box(1000)));
}
