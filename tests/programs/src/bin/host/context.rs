//! A map with a context as large as is asked for, and what memory it took, in this process and in its workers.

use std::fs::{read_dir, read_link};
use std::process::id;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use fastmap_test_programs::{report, status_number, until, workers};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Outcome, config};

/// Enough for every worker to get some.
const ITEMS: u64 = 40;

/// What is looked up in a context.
trait Table: Serialize + DeserializeOwned + Send + 'static {
    fn of(bytes: usize) -> Self;
    fn at(&self, n: u64) -> u64;
}

fn mixed(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

impl Table for Vec<u8> {
    fn of(bytes: usize) -> Self {
        (0..bytes as u64).map(|n| mixed(n) as u8).collect()
    }

    fn at(&self, n: u64) -> u64 {
        self[mixed(n) as usize % self.len()].into()
    }
}

impl Table for Vec<f64> {
    fn of(bytes: usize) -> Self {
        (0..bytes as u64 / 8).map(|n| mixed(n) as f64).collect()
    }

    fn at(&self, n: u64) -> u64 {
        self[mixed(n) as usize % self.len()] as u64
    }
}

/// What goes by serde, piece by piece.
#[derive(Serialize, Deserialize)]
struct Words {
    words: Vec<(u64, String)>,
}

impl Table for Words {
    fn of(bytes: usize) -> Self {
        Words { words: (0..bytes as u64 / 32).map(|n| (mixed(n), format!("word {n}"))).collect() }
    }

    fn at(&self, n: u64) -> u64 {
        let (number, word) = &self.words[mixed(n) as usize % self.words.len()];
        number + word.len() as u64
    }
}

pub(crate) fn context(kind: &str, bytes: usize) -> Outcome {
    match kind {
        "bytes" => of::<Vec<u8>>(bytes),
        "floats" => of::<Vec<f64>>(bytes),
        _ => of::<Words>(bytes),
    }
}

/// The most that is seen of a number.
#[derive(Default)]
struct Peak(AtomicU64);

impl Peak {
    fn see(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

/// Memory of its own that a process holds, in KB; 0 where it is gone.
fn own_memory(pid: i32) -> u64 {
    std::panic::catch_unwind(|| status_number(&pid.to_string(), "RssAnon")).unwrap_or(0)
}

/// Contexts that are files in memory and open here.
fn files() -> Result<usize, std::io::Error> {
    let open = read_dir("/proc/self/fd")?.filter_map(|entry| read_link(entry.ok()?.path()).ok());
    Ok(open.filter(|path| path.to_string_lossy().contains("fastmap-context")).count())
}

fn of<C: Table>(bytes: usize) -> Outcome {
    let config = config()?;
    let me = id().cast_signed();
    let expected: Vec<u64> = {
        let context = C::of(bytes);
        (0..ITEMS).map(|n| context.at(n)).collect()
    };
    // Workers are there before.
    config.fastmap(|n: u64| sleep(Duration::from_millis(n)), (0..8).map(|_| 20)).for_each(drop);
    std::panic::set_hook(Box::new(|_| {}));
    let (host, worker, done) = (Peak::default(), Peak::default(), AtomicBool::new(false));
    let context = C::of(bytes);
    let before = own_memory(me);
    let begun = Instant::now();
    let mut first = Duration::ZERO;
    scope(|scope| -> Outcome {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                host.see(own_memory(me));
                for pid in workers(me) {
                    worker.see(own_memory(pid));
                }
                sleep(Duration::from_millis(2));
            }
        });
        let lookup = |context: &C, n: u64| {
            sleep(Duration::from_millis(10));
            context.at(n)
        };
        let answers = config.fastmap_with(context, lookup, 0..ITEMS);
        let timed = answers.inspect(|_| {
            if first.is_zero() {
                first = begun.elapsed();
                println!("context files during {}", files().unwrap_or(usize::MAX));
            }
        });
        report(timed, |n| expected[n as usize]);
        done.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    let total = begun.elapsed();
    let small = || workers(me).into_iter().all(|pid| own_memory(pid) < 16 * 1024);
    until("the workers' memory is free", Duration::from_secs(20), || {
        small() && files().is_ok_and(|n| n == 0)
    });
    println!(
        "context held {before} host {} worker {} after {} first {} total {}",
        host.0.into_inner(),
        worker.0.into_inner(),
        own_memory(me),
        first.as_millis(),
        total.as_millis()
    );
    Ok(())
}
