//! Threads and channels of the standard library, results in order: what one writes by hand.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread;

use super::window::drive;
use super::{Contestant, Plan, WORKERS};
use crate::functions::Work;

pub(crate) struct Threads(Plan);

impl<W: Work> Contestant<W> for Threads {
    const NAME: &'static str = "threads";

    fn start(plan: Plan) -> Self {
        Threads(plan)
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        let (submit, inputs) = sync_channel::<(u64, Vec<W::In>)>(self.0.window);
        // Unbounded, because the window bounds it.
        let (send, mut outputs) = channel();
        let inputs = Mutex::new(inputs);
        let next = || inputs.lock().expect("no worker panics").recv();
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                let send = send.clone();
                scope.spawn(move || {
                    while let Ok((chunk, inputs)) = next() {
                        let results = inputs.into_iter().map(W::call).collect::<Vec<_>>();
                        if send.send((chunk, Some(results))).is_err() {
                            return;
                        }
                    }
                });
            }
            let receive = |outputs: &mut Receiver<_>| outputs.recv().expect("a worker answers each chunk");
            let hand =
                |_: &mut _, chunk, inputs| submit.send((chunk, inputs)).expect("the workers wait for chunks");
            drive(&mut outputs, self.0, count, item, hand, receive, consume);
            drop(submit);
        });
    }
}
