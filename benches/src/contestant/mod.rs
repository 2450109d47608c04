//! The contestants, one file each, behind one small trait (`interface`); the workloads measure any of them in the same
//! words.

mod builtin;
mod fastmap;
pub(crate) mod inside;
mod interface;
pub(crate) mod procspawn;
pub(crate) mod raw;
mod rayon;
mod threads;
mod window;
pub(crate) mod wire;

pub(crate) use builtin::Builtin;
pub(crate) use fastmap::{Confined, Fastmap, Host, HostAndWorker, Inline, Reported};
pub(crate) use interface::{Contestant, Plan, WORKERS};
pub(crate) use procspawn::Procspawn;
pub(crate) use raw::{Raw, RawByHand};
pub(crate) use rayon::{Bridge, Rayon, RayonFine};
pub(crate) use threads::Threads;
