//! ADAPTIVE beside LOCAL and CLOUD, measured: a worker here on one core, a service with a worker on another, and a way
//! between them that takes time. Run by `scripts/bench adaptive`, in portions if need be; writes `docs/adaptive.md`.

mod comparison;
mod proxy;

pub(crate) use comparison::{WORD, run};
