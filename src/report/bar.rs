//! Bars of a terminal's width, as text.

use console::Style;
#[cfg(feature = "cloud")]
use console::{measure_text_width, truncate_str};

/// Columns of a bar, at least and at most.
pub(crate) const LEAST_BAR: usize = 8;
pub(crate) const MOST_BAR: usize = 40;

/// A bar of that many columns, filled by the share that is done.
pub(crate) fn bar(done: u64, total: u64, columns: usize) -> String {
    let share = (done as f64 / total.max(1) as f64).min(1.0);
    let full = (share * columns as f64) as usize;
    let bar = "█".repeat(full) + &"░".repeat(columns - full);
    Style::new().for_stderr().cyan().apply_to(bar).to_string()
}

/// The line of an upload of which so many bytes are there, at most so many columns wide.
#[cfg(feature = "cloud")]
pub(crate) fn upload(what: &str, sent: u64, total: u64, width: usize) -> String {
    let (sent_mb, total_mb) = (sent as f64 / 1e6, total as f64 / 1e6);
    let (text, count) = (format!("uploading the {what}"), format!("{sent_mb:.1} of {total_mb:.1} MB"));
    let left = width.saturating_sub(measure_text_width(&text) + measure_text_width(&count) + 2);
    let bar = if left < LEAST_BAR { String::new() } else { bar(sent, total, left.min(MOST_BAR)) + " " };
    truncate_str(&format!("{text} {bar}{count}"), width, "").into_owned()
}
