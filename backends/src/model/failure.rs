//! The failure of one item.

use serde::{Deserialize, Serialize};

/// Failure of an item whose worker lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFailure {
    /// Position of the item among those of the completion (0 is its first).
    pub offset: u32,
    /// Kind of failure.
    pub kind: FailureKind,
    /// The message, without the item's index. The frames of a panic may follow it, see
    /// [`FRAMES`](ItemFailure::FRAMES).
    pub message: String,
}

impl ItemFailure {
    /// Separator between the message of a panic and its frames.
    pub const FRAMES: &str = "\nstack backtrace:";

    /// Adds a note to the message, before the frames of a panic.
    pub fn add(&mut self, note: &str) {
        add(&mut self.message, note);
    }
}

/// The kinds of [`ItemFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The function panicked.
    Panic,
    /// The item could not be read, or its result not be written.
    Serialize,
}

/// Adds a note to the message of a failure, before the frames of a panic.
pub(crate) fn add(message: &mut String, note: &str) {
    let end = message.find(ItemFailure::FRAMES).unwrap_or(message.len());
    message.insert_str(end, note);
}
