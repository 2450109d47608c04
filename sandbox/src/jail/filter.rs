//! A jail's seccomp filters, as bubblewrap takes them: bytes that it installs before it starts the
//! executable. Nothing kills. A refused call fails with EPERM, which is the function's to report. `filters`
//! makes them, from the list of calls that the local sandbox has as well.

use seccompiler::{BackendError, BpfProgram};

use crate::calls::Side;
use crate::filters::{by_arguments, by_number};

/// Both filters, as the kernel reads them.
#[derive(Clone, Debug)]
pub(crate) struct Filters(pub(crate) [Vec<u8>; 2]);

impl Filters {
    /// # Errors
    /// If this architecture is not known to the compiler of filters.
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
