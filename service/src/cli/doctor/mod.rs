//! `fastmap doctor`: whether maps can run on this machine and in the service that the environment names, and, where it is
//! to be a service itself, what it offers for jails; each finding with what to do about it.
//!
//! `report` prints all findings (`finding`): `machine` checks what maps need, `unit` the systemd unit around it, `workers`
//! starts some, `client` asks the service, `queue` its NATS servers, `serving` tries the jails.

mod client;
mod finding;
mod machine;
mod queue;
mod report;
mod serving;
mod unit;
mod workers;

pub(crate) use report::doctor;
