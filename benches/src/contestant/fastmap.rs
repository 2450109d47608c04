//! fastmap itself, as a user calls it; it finds its batches by itself and takes only the read-ahead from the plan.

use fastmap::backends::Backend;
use fastmap::{ExecPolicy, FastmapConfig, Options, Sandbox, Verbosity};

use super::{Contestant, Plan, WORKERS};
use crate::work::Work;

pub(crate) struct Fastmap(FastmapConfig);

/// With workers that are confined.
pub(crate) struct Confined(Fastmap);

fn options(plan: Plan) -> Options {
    Options::new()
        .exec_policy(ExecPolicy::Local)
        .local_processes(WORKERS)
        .verbosity(Verbosity::Quiet)
        .read_ahead(plan.read_ahead)
}

impl Fastmap {
    /// Over another backend.
    pub(super) fn on(backend: impl Backend + 'static) -> Self {
        let options = Options::new().backend(backend).verbosity(Verbosity::Quiet);
        Fastmap(fastmap::init(options).expect("these options can be used"))
    }
}

impl<W: Work> Contestant<W> for Confined {
    const NAME: &'static str = "confined";

    fn start(plan: Plan) -> Self {
        let options = options(plan).sandbox(Sandbox::Require);
        Confined(Fastmap(fastmap::init(options).expect("this kernel has what is required")))
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        Contestant::<W>::map(&mut self.0, count, item, consume);
    }
}

impl<W: Work> Contestant<W> for Fastmap {
    const NAME: &'static str = "fastmap";

    fn start(plan: Plan) -> Self {
        let options = options(plan).sandbox(Sandbox::Off);
        Fastmap(fastmap::init(options).expect("these options can be used"))
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
