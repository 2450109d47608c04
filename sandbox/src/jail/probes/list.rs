//! All attacks.

use crate::jail::probes::probe::Probe;
use crate::jail::probes::{files, kernel, network, processes};

/// All of them.
pub fn all() -> impl Iterator<Item = Probe> {
    files::ALL.iter().chain(network::ALL).chain(processes::ALL).chain(kernel::ALL).copied()
}
