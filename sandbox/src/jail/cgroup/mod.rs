//! Control groups: limit and measure the memory, processes and CPU of jails. Version 2 is used if it has the
//! controllers, else version 1; without either the service does not start. Groups are made beneath this
//! process's own, so that limits of the service apply to its jails, too.
//!
//! A service has one group. Beneath it are one group for each account with runs, in that one for each run,
//! and in that one for each worker. The kernel divides CPU time among siblings: accounts get equal shares,
//! however many workers each has, and those behind their share run first (`shares`). The service's group is
//! locked while the service lives. A group without a lock belongs to a dead service: the next service kills
//! its processes and removes it.
//!
//! `hierarchy` finds the roots in which groups can be made, `group` is one group, and `service` has the
//! groups of a service.

mod group;
mod hierarchy;
mod service;

pub(crate) use crate::jail::cgroup::group::Group;
pub(crate) use crate::jail::cgroup::service::Cgroups;
