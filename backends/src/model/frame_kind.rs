//! The kinds of frames, of both directions. What each holds is in `frame`.

/// The number of a kind of frame, with which its header begins.
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
    /// `None`: no kind has that number.
    pub(crate) fn of(number: u32) -> Option<Kind> {
        use Kind::{Batch, Close, Done, Log, Open, OpenFailed, Recall, Returned, SandboxDenial};
        [Open, Batch, Recall, Close, Done, Returned, OpenFailed, Log, SandboxDenial]
            .into_iter()
            .find(|kind| u32::from(*kind as u8) == number)
    }
}
