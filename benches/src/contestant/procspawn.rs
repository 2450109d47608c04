//! procspawn's pool of processes: one call with a chunk of items at a time.

use std::collections::VecDeque;

use procspawn::{JoinHandle, Pool};

use super::window::drive;
use super::{Contestant, Plan, WORKERS};
use crate::functions::Work;

pub(crate) struct Procspawn {
    plan: Plan,
    pool: Pool,
}

/// Makes this process one of procspawn's workers, if it was started as one.
pub(crate) fn enter() {
    procspawn::init();
}

fn each<W: Work>(inputs: Vec<W::In>) -> Vec<W::Out> {
    inputs.into_iter().map(W::call).collect()
}

impl<W: Work> Contestant<W> for Procspawn {
    const NAME: &'static str = "procspawn";

    fn start(mut plan: Plan) -> Self {
        // A call writes its arguments before a worker is free to read them: with more of them, both wait for ever.
        if plan.large {
            plan.window = WORKERS;
        }
        Procspawn { plan, pool: Pool::new(WORKERS).expect("two processes can be started") }
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        let pool = &self.pool;
        let mut calls: VecDeque<(u64, JoinHandle<Vec<W::Out>>)> = VecDeque::new();
        drive(
            &mut calls,
            self.plan,
            count,
            item,
            |calls, chunk, inputs| calls.push_back((chunk, pool.spawn(inputs, each::<W>))),
            |calls| {
                let (chunk, call) = calls.pop_front().expect("only what was handed over is waited for");
                (chunk, call.join().ok())
            },
            consume,
        );
    }
}

impl Drop for Procspawn {
    fn drop(&mut self) {
        self.pool.shutdown();
    }
}
