//! The list of all probes.

use crate::jail::probes::probe::Probe;
use crate::jail::probes::{files, kernel, network, processes};

/// Returns all probes.
pub fn all() -> impl Iterator<Item = Probe> {
    files::ALL.iter().chain(network::ALL).chain(processes::ALL).chain(kernel::ALL).copied()
}
