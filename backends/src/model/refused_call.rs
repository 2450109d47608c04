//! System calls that the sandbox denied to an item.

/// A call that the sandbox denied to a function that continued without it. Or a file that the function looked
/// for in the cloud, and that does not exist there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCall {
    /// Index in the input of the item that made it; `None` during the preparation of the function.
    pub index: Option<u64>,
    /// The system call, with its path if it has one; for a missing file only the path.
    pub call: String,
    /// Whether the item's result is an error of its own (`Err`), of which the call may be the cause.
    pub own_error: bool,
    /// Whether this is a missing file instead of a denied call.
    pub missing: bool,
}

/// Why a call was denied, and what to do about it.
pub(crate) const WAY_OUT: &str = "for a mapped function uses neither files nor network nor other processes; \
                       Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it on this machine";

/// Message about denied calls.
pub(crate) fn denial_message(calls: &str) -> String {
    format!("the sandbox refused {calls}, {WAY_OUT}")
}
