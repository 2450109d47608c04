//! A refused call in words.

use std::fmt;

/// Calls that are named in one message.
pub(crate) const NAMED: usize = 5;

/// A call that was refused to an item, or that looked for a file which a jail has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number that `running` held (see [`confine`](crate::confine)).
    pub item: u32,
    /// The call.
    pub call: &'static str,
    /// Its path, if it has one; a long one is cut.
    pub path: Option<String>,
    /// The item had a result that was an error of its own.
    pub own_error: bool,
    /// It was not refused: in the jail there is no such file.
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

/// The calls as a message names them: the first of them, and how many more there are.
pub fn named<C: fmt::Display>(calls: &[C]) -> String {
    let mut named: Vec<String> = calls.iter().take(NAMED).map(ToString::to_string).collect();
    if calls.len() > NAMED {
        named.push(format!("{} other calls", calls.len() - NAMED));
    }
    match named.pop() {
        Some(last) if named.is_empty() => last,
        Some(last) => format!("{} and {last}", named.join(", ")),
        None => String::new(),
    }
}
