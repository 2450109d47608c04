//! A system call of the list, its group, and its answers.

/// A system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) name: &'static str,
    /// Index of the argument that is a path to be recorded.
    pub(crate) path: Option<usize>,
}

/// Where a confined worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// On the user's machine, confined by [`confine`](crate::confine).
    Local,
    /// In a jail of the service: the worker's own filters, see [`watch`](crate::watch). They give the local
    /// answers, so that a denied call is recorded. The jail's filter is in force independently of them.
    Inside,
    /// In a jail of the service: the filter that is installed from outside.
    #[cfg(any(feature = "jail", test))]
    Jail,
}

/// The answer to a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// The kernel executes the call.
    Allowed,
    /// The kernel executes the call if all conditions hold; else as [`Answer::Refused`].
    Only(&'static [Condition]),
    /// EPERM. The local sandbox records it.
    Refused,
    /// EPERM. The notify thread of the local sandbox records it, because callers have all signals blocked.
    /// With conditions: the kernel executes the call if all hold.
    UserNotif(Option<&'static [Condition]>),
    /// ENOSYS, as on a kernel that is older or was built without the call. Callers have a fallback.
    Absent,
    /// Returns 0 without executing the call.
    Skipped,
}

/// A condition on one argument, given by its index.
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
    /// If the worker has files of its own or is in a jail, and the path is relative to the working folder:
    /// `path_calls` makes the call (its sixth argument is `MARKER`). The argument is the folder's descriptor,
    /// if the call has one. Not for a jail's own filter.
    Marked(Option<u8>),
    /// The lower 32 bits are the process's own ID. Not for a jail's own filter, which is compiled outside of
    /// it.
    OwnPid(u8),
}

/// Calls of one kind, with the same answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// The kind, and the reason for the answer where one is needed; text of a row in the document.
    #[cfg_attr(
        not(all(test, target_arch = "x86_64")),
        expect(dead_code, reason = "read by the test of the document")
    )]
    pub(crate) what: &'static str,
    pub(crate) local: Answer,
    #[cfg_attr(not(any(feature = "jail", test)), expect(dead_code, reason = "a jail's"))]
    pub(crate) jail: Answer,
    pub(crate) calls: &'static [&'static [Call]],
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
