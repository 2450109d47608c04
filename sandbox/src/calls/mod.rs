//! One list of system calls for the local sandbox and for the service's jails: what each side answers to each
//! call.
//!
//! `list` is the list, as data. `filters` makes both sides' filters from it, `refusal` finds names in it, and
//! a test compares docs/local-and-cloud.md with it. A call that is not on the list is newer than the list,
//! and fails on both sides as on an older kernel.

mod list;

#[cfg(test)]
mod document;

use list::LIST;
pub(crate) use list::{ASKED, WRITING};

/// A system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) name: &'static str,
    /// The argument that is a path worth recording.
    pub(crate) path: Option<usize>,
}

/// The place of a confined worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// On the user's machine, under [`confine`](crate::confine).
    Local,
    /// In a jail of the service, by the worker's own filters, see [`watch`](crate::watch): the local answers,
    /// so that a refused call is recorded. The jail's filter holds as well, whatever these are.
    Inside,
    /// In a jail of the service, by the filter that is made outside of it.
    #[cfg(any(feature = "jail", test))]
    Jail,
}

/// The answer to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// The kernel's own.
    Allowed,
    /// The kernel's own where all conditions hold; else as [`Answer::Refused`].
    Only(&'static [Condition]),
    /// EPERM. The local sandbox records it.
    Refused,
    /// EPERM. The local sandbox records it in a thread of its own, because callers have all signals blocked.
    /// With conditions: the kernel's answer where all hold.
    Asked(Option<&'static [Condition]>),
    /// ENOSYS, as on a kernel that is older or was built without the call. Callers do otherwise.
    Absent,
    /// 0, and nothing is done.
    Skipped,
}

/// A condition on one argument, which is given by its place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    /// The lower 32 bits are one of these values.
    OneOf(u8, &'static [u32]),
    /// The lower 32 bits are none of these values.
    NoneOf(u8, &'static [u32]),
    /// All 64 bits have this value.
    Exactly(u8, u64),
    /// The flag is set.
    Flag(u8, i32),
    /// None of the flags is set.
    NoFlag(u8, &'static [i32]),
    /// `files` makes the call (its sixth argument is `ASKED`), where the worker has files of its own or is in
    /// a jail, and the path begins at the working folder; the argument is the descriptor of another folder, if
    /// the call has one. Not for a jail's own filter.
    ByFiles(Option<u8>),
    /// The lower 32 bits are the id of the process itself. Not for a jail's own filter, which is made outside
    /// of it.
    Own(u8),
}

/// Calls of one kind, which are answered alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// The kind, and the reason for the answer where one is needed; a row of the document.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by the test of the document"))]
    pub(crate) what: &'static str,
    pub(crate) local: Answer,
    #[cfg_attr(not(any(feature = "jail", test)), expect(dead_code, reason = "a jail's"))]
    pub(crate) jail: Answer,
    calls: &'static [&'static [Call]],
}

impl Group {
    pub(crate) fn calls(&self) -> impl Iterator<Item = &'static Call> + use<> {
        self.calls.iter().copied().flatten()
    }

    pub(crate) fn answer(&self, side: Side) -> Answer {
        match side {
            Side::Local | Side::Inside => self.local,
            #[cfg(any(feature = "jail", test))]
            Side::Jail => self.jail,
        }
    }
}

/// All calls of the list with one side's answers.
pub(crate) fn answers(side: Side) -> impl Iterator<Item = (&'static Call, Answer)> {
    LIST.iter().flat_map(move |group| group.calls().map(move |call| (call, group.answer(side))))
}

/// The call with that number.
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

    /// A call that is forgotten would fail with ENOSYS, which old kernels never gave.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn each_call_of_the_kernel_is_on_the_list() {
        /// Numbers that stand for no call, or for one that no kernel of these ten years has.
        const HOLES: [i64; 14] = [134, 156, 174, 177, 178, 181, 182, 183, 184, 185, 214, 215, 236, 333];
        let listed = |number: &i64| find(*number).is_some() || HOLES.contains(number);
        let missing: Vec<i64> = (0..=336).chain(424..=469).filter(|number| !listed(number)).collect();
        assert_eq!(missing, [0; 0]);
    }
}
