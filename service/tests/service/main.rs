//! The service as its clients see it: a real process, real requests, real workers.

mod client;
mod requests;
mod runs;
mod server;
mod uploads;
