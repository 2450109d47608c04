//! Times, amounts and other people's text, as pages write them. Pure.

use maud::{Markup, html};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::pricing;
use crate::pricing::{CREDIT, Microcredits};

/// A number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate or another number that need not be exact.
pub(super) fn about(number: f64) -> String {
    match number {
        n if n >= 100.0 => count(n.round() as u64),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// Credits: to a hundredth where they are many, else exactly.
pub(super) fn credits(amount: Microcredits) -> String {
    if amount.abs() < 100 * CREDIT {
        return pricing::show(amount);
    }
    let hundredths = (amount.unsigned_abs() + 5_000) / 10_000;
    let sign = if amount < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", count(hundredths / 100), hundredths % 100)
}

/// Bytes.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Seconds of CPU time.
pub(super) fn cpu_seconds(nanoseconds: u64) -> String {
    about(nanoseconds as f64 / 1e9)
}

/// A length of time in milliseconds.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, ms % 1000 / 100),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3600 % 24),
    }
}

fn at(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A moment, in UTC.
pub(super) fn moment(ms: i64) -> Markup {
    let machine = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let people = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let at = at(ms);
    html! {
        time datetime=(at.format(&machine).unwrap_or_default()) { (at.format(&people).unwrap_or_default()) }
    }
}

/// The time of day of a moment, in UTC.
pub(super) fn clock(ms: i64) -> String {
    at(ms).format(&format_description!("[hour]:[minute]:[second]")).unwrap_or_default()
}

/// The day of a moment, in UTC.
pub(super) fn day(ms: i64) -> String {
    at(ms).format(&format_description!("[year]-[month]-[day]")).unwrap_or_default()
}

/// Somebody's text on one line of at most `most` characters: what would turn the text around it, or not be seen, is
/// replaced. Escaping is the template's.
pub(super) fn text(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most).map(seen).collect();
    if text.chars().nth(most).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// The same, of a path whose end says most.
pub(super) fn path(path: &str, most: usize) -> String {
    let length = path.chars().count();
    if length <= most {
        return text(path, most);
    }
    format!("…{}", path.chars().skip(length - most + 1).map(seen).collect::<String>())
}

fn seen(letter: char) -> char {
    match letter {
        '\t' | '\n' => ' ',
        c if c.is_control() => '\u{fffd}',
        // Marks and overrides of the direction of writing, and what has no width.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
            '\u{fffd}'
        }
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let amounts = [0, 28, -28, 99 * CREDIT + 1, 1000 * CREDIT, 1_234_567_890, -1_234_567_890_123];
        let shown = ["0", "0.000028", "-0.000028", "99.000001", "1,000.00", "1,234.57", "-1,234,567.89"];
        assert_eq!(amounts.map(credits), shown);
        assert_eq!([0, 999, 1000, 1_234_567].map(bytes), ["0 B", "999 B", "1.0 kB", "1.2 MB"]);
        let times = [0, 999, 1500, 65_000, 3_700_000, 90_000_000];
        assert_eq!(times.map(duration), ["0 ms", "999 ms", "1.5 s", "1 min 05 s", "1 h 01 min", "1 d 01 h"]);
        assert_eq!(moment(0).0, "<time datetime=\"1970-01-01T00:00:00Z\">1970-01-01 00:00:00</time>");
    }

    #[test]
    fn text_of_others_stays_in_its_line_and_its_direction() {
        assert_eq!(text("a\nb\u{202e}c\u{7}", 99), "a b\u{fffd}c\u{fffd}");
        assert_eq!(text("abcdef", 3), "ab…");
        assert_eq!(text("abc", 3), "abc");
        assert_eq!(path("crate::module::function", 11), "…::function");
    }
}
