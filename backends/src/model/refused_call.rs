//! A system call that the sandbox refused to an item.

/// A call that the sandbox refused to a function that went on without it, or a file that the function looked for in
/// the cloud and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCall {
    /// Index in the input of the item that made it; `None` where the function was being prepared.
    pub index: Option<u64>,
    /// The system call, with its path if it has one; of a file that is not there the path alone.
    pub call: String,
    /// The item's result is an error of its own (`Err`): the call may be why.
    pub own_error: bool,
    /// It was not refused: there is no such file.
    pub missing: bool,
}

/// Why a call was refused, and what to do about it.
pub(crate) const WAY_OUT: &str = "for a mapped function uses neither files nor network nor other processes; \
                       Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off allows it on this machine";

/// What a message says of refused calls.
pub(crate) fn denial_message(calls: &str) -> String {
    format!("the sandbox refused {calls}, {WAY_OUT}")
}
