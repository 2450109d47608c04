//! What `scripts/bench callgrind` runs under valgrind: a map of tiny items in this process, nothing else; or small
//! ones, few and many, of which the difference counts.

use crate::contestant::{Contestant, Plan};
use crate::functions::{Spin, Sqrt, Work};
use crate::measure::{Entry, entries, pass};

/// What the children run.
pub(super) fn children(items: u64) -> Vec<Entry<'static, ()>> {
    entries!([Builtin, Host, HostAndWorker], host::<Sqrt>(items))
}

/// So many maps of so many items of so many turns.
pub(super) fn small(maps: u64, items: u64, turns: u64) -> Vec<Entry<'static, ()>> {
    entries!([Builtin, Inline], again::<Spin>(maps, items, turns))
}

fn again<W: Work<In = u64>, C: Contestant<W>>(maps: u64, items: u64, turns: u64) {
    let mut contestant = C::start(Plan::chunks_of(1));
    for _ in 0..maps {
        pass::<W, C>(&mut contestant, items, |_| turns);
    }
}

fn host<W: Work<In = u64>, C: Contestant<W>>(items: u64) {
    pass::<W, C>(&mut C::start(Plan::chunks_of(20_000)), items, |index| index);
}
