//! rayon: threads that share memory. The indexed form that collects in order, with its own splitting and with one
//! item a task; and `par_bridge` for inputs without an end, whose results come unordered.

use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Contestant, Plan, WORKERS};
use crate::functions::Work;

fn pool() -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(WORKERS).build().expect("two threads can be started")
}

fn collect<W: Work>(
    pool: &ThreadPool,
    largest_task: usize,
    count: u64,
    item: impl Fn(u64) -> W::In + Send + Sync,
    mut consume: impl FnMut(Option<W::Out>) -> bool,
) {
    let indices = (0..count as usize).into_par_iter().with_max_len(largest_task);
    let results: Vec<W::Out> = pool.install(|| indices.map(|index| W::call(item(index as u64))).collect());
    for result in results {
        if !consume(Some(result)) {
            return;
        }
    }
}

/// `par_iter().map().collect()`.
pub(crate) struct Rayon(ThreadPool);

impl<W: Work> Contestant<W> for Rayon {
    const NAME: &'static str = "rayon";

    fn start(_plan: Plan) -> Self {
        Rayon(pool())
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        collect::<W>(&self.0, usize::MAX, count, item, consume);
    }
}

/// The same `.with_max_len(1)`: for items that take long.
pub(crate) struct RayonFine(ThreadPool);

impl<W: Work> Contestant<W> for RayonFine {
    const NAME: &'static str = "rayon, max_len(1)";

    fn start(_plan: Plan) -> Self {
        RayonFine(pool())
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        collect::<W>(&self.0, 1, count, item, consume);
    }
}

/// `par_bridge()` into a bounded channel. Unordered.
pub(crate) struct Bridge(ThreadPool);

impl<W: Work> Contestant<W> for Bridge {
    const NAME: &'static str = "rayon, par_bridge";

    fn start(_plan: Plan) -> Self {
        Bridge(pool())
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        mut consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        let (send, receive) = sync_channel(WORKERS);
        self.0.in_place_scope(|scope| {
            scope.spawn(move |_| {
                // An error says that the consumer wants no more.
                let _ = (0..count)
                    .map(item)
                    .par_bridge()
                    .try_for_each_with(send, |send, input| send.send(W::call(input)));
            });
            let receive = receive;
            for result in &receive {
                if !consume(Some(result)) {
                    return;
                }
            }
        });
    }
}
