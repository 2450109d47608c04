//! fastmap's engine in virtual time.
//!
//! The decisions are the real ones where they are pure (`fastmap_backends::batch_sizing`), and elsewhere told again after
//! the engine's files, which each module here names. `engine` plays one map: `clock` is its queue of events, `world` what
//! surrounds it, `settings` what the host decides by, `shapes` its items, `outcome` what came of it. `experiments`
//! are the tables that the program prints.

#![forbid(unsafe_code)]

pub mod choice;
pub mod clock;
mod drive;
pub mod engine;
pub mod experiments;
pub mod outcome;
mod pool;
pub mod settings;
pub mod shapes;
pub mod table;
mod window;
mod worker;
pub mod world;

pub use engine::simulate;
pub use outcome::{Outcome, greedy};
pub use settings::Settings;
pub use shapes::{Items, Shape};
pub use world::World;
