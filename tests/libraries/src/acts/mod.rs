//! The acts, by what they use, and the groups that can share a process.

mod allocators;
mod parallel;
mod readings;
mod refused;
mod runtimes;
mod text;

use crate::{Act, data, native};

/// Acts that one worker does one after the other.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    acts: &'static [&'static [Act]],
}

impl Group {
    pub(crate) fn acts(&self) -> impl Iterator<Item = &'static Act> {
        self.acts.iter().copied().flatten()
    }
}

/// What is compared. Libraries that can't share a process have one to themselves: two versions of OpenMP end
/// it, and Perl takes away the signal by which WebAssembly sees a division by zero.
pub(crate) const GROUPS: &[Group] = &[
    Group { name: "data", acts: &[readings::ACTS, data::ACTS, native::ACTS, text::ACTS, refused::ACTS] },
    Group { name: "runtimes", acts: &[runtimes::ACTS, parallel::ACTS] },
    Group { name: "WebAssembly", acts: &[runtimes::WASM] },
    Group { name: "Perl", acts: &[runtimes::PERL] },
    Group { name: "allocators", acts: &[allocators::ACTS] },
    Group { name: "collector", acts: &[allocators::COLLECTOR] },
    Group { name: "libomp 14", acts: &[parallel::LIBOMP_14] },
    Group { name: "libomp 16", acts: &[parallel::LIBOMP_16] },
    Group { name: "libomp 19", acts: &[parallel::LIBOMP_19] },
];

/// The group of this name.
pub(crate) fn group(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.name == name)
}

/// A number that stands for some bytes (FNV-1a).
fn checksum(bytes: impl IntoIterator<Item = u8>) -> String {
    let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix))
}
