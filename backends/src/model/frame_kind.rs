//! Kinds of frames, of both directions. `frame` has their fields.

/// Number of a kind of frame, the first field of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Open = 1,
    Batch = 2,
    Recall = 3,
    Close = 4,
    Done = 5,
    Returned = 6,
    OpenFailed = 7,
    Log = 8,
    SandboxDenial = 9,
}

impl Kind {
    /// The kind with this number; `None` if there is none.
    pub(crate) fn of(number: u32) -> Option<Kind> {
        use Kind::{Batch, Close, Done, Log, Open, OpenFailed, Recall, Returned, SandboxDenial};
        [Open, Batch, Recall, Close, Done, Returned, OpenFailed, Log, SandboxDenial]
            .into_iter()
            .find(|kind| u32::from(*kind as u8) == number)
    }
}
