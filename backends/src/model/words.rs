//! Formatting of counts. Used wherever a number and its noun are shown: closing lines, warnings, reports,
//! problems of the service.

use std::borrow::Cow;

/// The noun for a number of things: `item` for one, `items` for any other number.
///
/// # Examples
///
/// ```
/// use fastmap_backends::noun;
///
/// assert_eq!([noun(1, "batch"), noun(0, "batch")], ["batch", "batches"]);
/// ```
pub fn noun(number: u64, what: &str) -> Cow<'_, str> {
    if number == 1 {
        return Cow::Borrowed(what);
    }
    let is_sibilant = ["s", "x", "ch", "sh"].iter().any(|end| what.ends_with(end));
    Cow::Owned(match what.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if is_sibilant => format!("{what}es"),
        _ => format!("{what}s"),
    })
}

/// A number with its noun: `1 item`, `2 items`.
///
/// # Examples
///
/// ```
/// use fastmap_backends::counted;
///
/// assert_eq!([counted(1, "try"), counted(2, "try")], ["1 try", "2 tries"]);
/// ```
pub fn counted(number: u64, what: &str) -> String {
    format!("{number} {}", noun(number, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        let counts = [counted(0, "item"), counted(1, "worker"), counted(2, "batch"), counted(3, "entry")];
        assert_eq!(counts, ["0 items", "1 worker", "2 batches", "3 entries"]);
        assert_eq!(counted(2, "day"), "2 days");
    }
}
