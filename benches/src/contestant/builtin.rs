//! `Iterator::map` in this thread: what all others are measured against.

use super::{Contestant, Plan};
use crate::functions::Work;

pub(crate) struct Builtin;

impl<W: Work> Contestant<W> for Builtin {
    const NAME: &'static str = "map";

    fn start(_plan: Plan) -> Self {
        Builtin
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        mut consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        for result in (0..count).map(item).map(W::call) {
            if !consume(Some(result)) {
                return;
            }
        }
    }
}
