//! The service as its clients see it: a real process, real requests, real workers.

mod agent;
mod backup;
mod bad_days;
mod blocking;
mod bounds;
mod client;
mod crowds;
mod dashboard;
mod data;
mod databases;
mod doctor;
mod gateways;
mod jails;
mod large;
mod lifetime;
mod machines;
mod money;
mod nats;
mod nats_roles;
mod requests;
mod runs;
#[allow(dead_code, reason = "shared with tests of the client")]
mod server;
mod stopped;
mod tenants;
mod uploads;
