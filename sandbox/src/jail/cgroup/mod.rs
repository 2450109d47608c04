//! Control groups: what bounds the memory, processes and CPU of jails, and measures them. Version 2 where it
//! has the controllers, else version 1; without either nothing is served. Groups are made beneath this
//! process's own, so that what bounds the service bounds its jails, too.
//!
//! A service has one group, beneath it one for each account that has runs, one for each run in that, and one
//! for each worker in that. The kernel shares CPU time among siblings: accounts get equal shares, however
//! many workers each has, and those behind their share run first (`shares`). The service's group is locked as
//! long as the service lives. A group without a lock is a dead service's: the next service ends what is in it
//! and removes it.
//!
//! `hierarchy` finds where groups can be made, `group` is one of them, and `service` has those of a service.

mod group;
mod hierarchy;
mod service;

pub(crate) use crate::jail::cgroup::group::Group;
pub(crate) use crate::jail::cgroup::service::Cgroups;
