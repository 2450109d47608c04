//! What `scripts/bench callgrind` runs under valgrind: a map of tiny items in this process, nothing else.

use crate::contestant::{Contestant, Plan};
use crate::measure::{Entry, entries, pass};
use crate::work::{Sqrt, Work};

/// What the children run.
pub(super) fn children(items: u64) -> Vec<Entry<'static, ()>> {
    entries!([Builtin, Host, HostAndWorker], host::<Sqrt>(items))
}

fn host<W: Work<In = u64>, C: Contestant<W>>(items: u64) {
    pass::<W, C>(&mut C::start(Plan::chunks_of(20_000)), items, |index| index);
}
