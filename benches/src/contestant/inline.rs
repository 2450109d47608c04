//! fastmap with the option `inline`: the calling thread takes items where that is quicker.

use fastmap::{ExecPolicy, FastmapConfig, Options, Verbosity};

use super::{Contestant, Plan, WORKERS};
use crate::work::Work;

pub(crate) struct Inline(FastmapConfig);

impl<W: Work> Contestant<W> for Inline {
    const NAME: &'static str = "fastmap, inline";

    fn start(plan: Plan) -> Self {
        let options = Options::new()
            .exec_policy(ExecPolicy::Local)
            .local_processes(WORKERS)
            .verbosity(Verbosity::Quiet)
            .read_ahead(plan.read_ahead)
            .inline(true);
        Inline(fastmap::init(options).expect("these options can be used"))
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        mut consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        for result in self.0.fastmap(W::call, (0..count).map(item)) {
            if !consume(result.ok()) {
                return;
            }
        }
    }
}
