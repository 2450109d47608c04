//! fastmap itself, as a user calls it; it finds its batches by itself and takes only the read-ahead from the plan.
//! Its kinds differ in their options alone.

use std::marker::PhantomData;

use fastmap::backends::Backend;
use fastmap::{ExecPolicy, FastmapConfig, Options, Sandbox, Verbosity};
use tempfile::TempDir;

use super::inside::{Answers, Inside};
use super::{Contestant, Plan, WORKERS};
use crate::functions::Work;

/// fastmap with the options of a [`Kind`].
pub(crate) struct Fastmap<K = Usual>(FastmapConfig, PhantomData<K>);

/// With workers that are confined.
pub(crate) type Confined = Fastmap<Confining>;
/// With the option `inline`: the calling thread takes items where that is quicker.
pub(crate) type Inline = Fastmap<Inlining>;
/// The host's path alone: pull, encode, batch; segment, decode, `next()`. The function does not run.
pub(crate) type Host = Fastmap<HostAlone>;
/// The host's path and the loop that a worker runs, one after the other.
pub(crate) type HostAndWorker = Fastmap<BothSides>;

/// What a contestant is called, and its options.
pub(crate) trait Kind {
    const NAME: &'static str;
    fn options(plan: Plan) -> Options;
}

/// Defines kinds: a name, what it is called, its options.
macro_rules! kinds {
    ($($kind:ident, $name:literal, |$plan:ident| $options:expr;)+) => {$(
        pub(crate) struct $kind;

        impl Kind for $kind {
            const NAME: &'static str = $name;

            fn options($plan: Plan) -> Options {
                $options
            }
        }
    )+};
}

kinds! {
    Usual, "fastmap", |plan| local(plan).sandbox(Sandbox::Off);
    Confining, "confined", |plan| local(plan).sandbox(Sandbox::Require);
    Inlining, "fastmap, inline", |plan| local(plan).sandbox(Sandbox::Off).inline(true);
    HostAlone, "host", |_plan| over(Inside(Answers::Echo));
    BothSides, "host-and-worker", |_plan| over(Inside(Answers::Run));
}

fn local(plan: Plan) -> Options {
    Options::new()
        .exec_policy(ExecPolicy::Local)
        .local_processes(WORKERS)
        .verbosity(Verbosity::Quiet)
        .read_ahead(plan.read_ahead)
}

fn over(backend: impl Backend + 'static) -> Options {
    Options::new().backend(backend).verbosity(Verbosity::Quiet)
}

impl<W: Work, K: Kind> Contestant<W> for Fastmap<K> {
    const NAME: &'static str = K::NAME;

    fn start(plan: Plan) -> Self {
        // Confined is what this kernel must be able to; all else can be used anywhere.
        Fastmap(fastmap::init(K::options(plan)).expect("these options can be used here"), PhantomData)
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

/// The usual one, and each map writes its report.
pub(crate) struct Reported {
    config: FastmapConfig,
    folder: TempDir,
    maps: u32,
}

impl<W: Work> Contestant<W> for Reported {
    const NAME: &'static str = "with a report";

    fn start(plan: Plan) -> Self {
        let config = fastmap::init(Usual::options(plan)).expect("these options can be used here");
        Reported { config, folder: tempfile::tempdir().expect("there is a temporary folder"), maps: 0 }
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        mut consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        self.maps += 1;
        let path = self.folder.path().join(format!("{}.html", self.maps));
        for result in self.config.fastmap(W::call, (0..count).map(item)).timings(path) {
            if !consume(result.ok()) {
                return;
            }
        }
    }
}
