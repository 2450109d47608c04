//! What workers print, on its way to the program's own output: `pipe` cuts it into lines, `queue` passes them to the
//! relay in a thread of its own, `delivery` knows how far that is, and `settle` waits for it at the end of a map and of the
//! program. `repeats` keeps back what dying workers repeat; `quota` bounds the output of strangers' workers.

pub(crate) mod delivery;
pub(crate) mod pipe;
pub(crate) mod queue;
pub(crate) mod quota;
pub(crate) mod repeats;
pub(crate) mod settle;
