//! fastmap behaves as `Iterator::map`: the same values, in the same order, as lazily, for the same kinds of function.
//! One module for each part of that promise, in `map_like/`; each test makes its own workers.
//! What needs a process of its own is in `global.rs`, `no_init.rs` and `options_env.rs`.
#![allow(clippy::unwrap_used)]

fastmap::test_support!();

mod common;

#[path = "map_like/failures.rs"]
mod failures;
#[path = "map_like/feeds.rs"]
mod feeds;
#[cfg(target_arch = "x86_64")]
#[path = "map_like/floats.rs"]
mod floats;
#[path = "map_like/functions.rs"]
mod functions;
#[path = "map_like/input.rs"]
mod input;
#[path = "map_like/modes.rs"]
mod modes;
#[path = "map_like/nested.rs"]
mod nested;
#[path = "map_like/output.rs"]
mod output;
#[path = "map_like/payloads.rs"]
mod payloads;
#[path = "map_like/sharing.rs"]
mod sharing;
#[path = "map_like/state.rs"]
mod state;
#[path = "map_like/types.rs"]
mod types;
