//! The service as its clients see it: a real process, real requests, real workers.

mod client;
mod runs;
mod server;
