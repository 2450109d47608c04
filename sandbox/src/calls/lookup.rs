//! Lookups in the list.

use crate::calls::list::LIST;
use crate::calls::syscall::{Answer, Call, Group, Side};

/// Returns all calls of the list with one side's answers.
pub(crate) fn answers(side: Side) -> impl Iterator<Item = (&'static Call, Answer)> {
    LIST.iter().flat_map(move |group| group.calls().map(move |call| (call, group.answer(side))))
}

/// Returns the call with this number.
pub(crate) fn find(number: i64) -> Option<&'static Call> {
    LIST.iter().flat_map(Group::calls).find(|call| call.number == number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_call_is_on_the_list_once_and_has_its_name() {
        let mut seen = BTreeSet::new();
        for call in LIST.iter().flat_map(Group::calls) {
            assert!(seen.insert(call.number), "{} ({}) is on the list twice", call.name, call.number);
        }
        assert_eq!(find(libc::SYS_openat).map(|call| call.name), Some("openat"));
        assert_eq!(find(9999).map(|call| call.name), None);
    }

    /// A call missing from the list would fail with ENOSYS, which older kernels did not return for it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn each_call_of_the_kernel_is_on_the_list() {
        /// Unassigned numbers, and calls that no kernel of the last ten years has.
        const HOLES: [i64; 14] = [134, 156, 174, 177, 178, 181, 182, 183, 184, 185, 214, 215, 236, 333];
        let listed = |number: &i64| find(*number).is_some() || HOLES.contains(number);
        let missing: Vec<i64> = (0..=336).chain(424..=469).filter(|number| !listed(number)).collect();
        assert_eq!(missing, [0; 0]);
    }
}
