//! A system call of the list, its group, and what it is answered.

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
    /// `path_calls` makes the call (its sixth argument is `ASKED`), where the worker has files of its own or is in
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
