//! Text of a denied call.

use std::fmt;

/// Maximum number of calls named in one message.
pub(crate) const MAX_NAMED: usize = 5;

/// A call of an item that was denied, or that looked for a file missing in the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The value of `running` at the call (see [`confine`](crate::confine)).
    pub item: u32,
    /// The call's name.
    pub call: &'static str,
    /// Its path, if it has one; a long path is truncated.
    pub path: Option<String>,
    /// Whether the item's result was an error of its own.
    pub own_error: bool,
    /// Whether the file is missing in the jail; the call was not denied.
    pub missing: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        match &self.path {
            Some(path) if self.missing => write!(f, "({path:?}: not there)"),
            Some(path) => write!(f, "({path:?})"),
            None => Ok(()),
        }
    }
}

/// Formats calls for a message: the first ones, and the number of others.
pub fn named<C: fmt::Display>(calls: &[C]) -> String {
    let mut named: Vec<String> = calls.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    if calls.len() > MAX_NAMED {
        named.push(format!("{} other calls", calls.len() - MAX_NAMED));
    }
    match named.pop() {
        Some(last) if named.is_empty() => last,
        Some(last) => format!("{} and {last}", named.join(", ")),
        None => String::new(),
    }
}
