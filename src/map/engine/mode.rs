//! Where the items of a map run.

use fastmap_backends::Run;

/// A map begins `Unopened`, changes between `Inline` and `Running`, and ends as `Stopped`, then
/// `Ended`.
pub(super) enum Mode {
    /// No run is open: the map has not begun, or the workers are about to take over from the calling thread.
    Unopened,
    /// The run of a backend has the items.
    Running(Box<dyn Run>),
    /// The calling thread has the items.
    Inline,
    /// No item runs any more. Results that have arrived are still delivered.
    Stopped,
    /// The map has yielded its last item or its last error.
    Ended,
}

impl Mode {
    pub(super) fn run(&mut self) -> Option<&mut (dyn Run + 'static)> {
        match self {
            Mode::Running(run) => Some(run.as_mut()),
            Mode::Unopened | Mode::Inline | Mode::Stopped | Mode::Ended => None,
        }
    }
}
