//! One finding, and what to do about it.

use serde::Serialize;

/// What was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Its name, as it stays.
    pub(super) name: &'static str,
    /// Whether it will do.
    pub(super) good: bool,
    /// What was found.
    pub(super) found: String,
    /// What to do, where it is not good or could be better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

pub(super) fn good(name: &'static str, found: impl Into<String>) -> Finding {
    Finding { name, good: true, found: found.into(), advice: None }
}

pub(super) fn bad(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { good: false, ..fair(name, found, advice) }
}

/// Something that works, and could be better.
pub(super) fn fair(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { name, good: true, found: found.into(), advice: Some(advice.into()) }
}

/// A variable that is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
