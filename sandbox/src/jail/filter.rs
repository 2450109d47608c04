//! A jail's seccomp filters in the binary form that bubblewrap installs before it starts the executable. No
//! filter kills: a denied call fails with EPERM, which the function can report. `filters` builds them from
//! the same list of system calls as the local sandbox.

use seccompiler::{BackendError, BpfProgram};

use crate::calls::Side;
use crate::filters::{by_arguments, by_number};

/// Both filters, encoded as `struct sock_filter` arrays.
#[derive(Clone, Debug)]
pub(crate) struct Filters(pub(crate) [Vec<u8>; 2]);

impl Filters {
    /// # Errors
    /// If the filter compiler does not support this architecture.
    pub(crate) fn compile() -> Result<Filters, BackendError> {
        Ok(Filters([bytes(&by_number(Side::Jail)), bytes(&by_arguments(Side::Jail)?)]))
    }
}

fn bytes(program: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 * program.len());
    for step in program {
        bytes.extend_from_slice(&step.code.to_ne_bytes());
        bytes.extend_from_slice(&[step.jt, step.jf]);
        bytes.extend_from_slice(&step.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_whole() {
        let Filters(filters) = Filters::compile().expect("an architecture that fastmap runs on");
        for filter in filters {
            assert_eq!(filter.len() % 8, 0);
            // BPF_MAXINSNS
            assert!((8..8 * 4096).contains(&filter.len()), "{}", filter.len());
        }
    }
}
