//! The service as its clients see it: a real process, real requests, real workers.

mod client;
mod dashboard;
mod jails;
mod large;
mod lifetime;
mod money;
mod requests;
mod runs;
mod server;
mod tenants;
mod uploads;
