//! Figures as people read them, for the page and the diagnosis.

use std::time::Duration;

use fastmap_backends::noun;

use crate::report::format::time;

/// A duration, in the unit that fits it.
pub(crate) fn seconds_of(seconds: f64) -> String {
    match seconds {
        s if s <= 0.0 => "0".to_owned(),
        s => time(Duration::try_from_secs_f64(s).unwrap_or_default()),
    }
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// `1 item`, `2 items`, `2 batches`, `2 tries`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{} {}", grouped(number), noun(number, what))
}

/// With a comma at each thousand.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Items a second.
pub(crate) fn rate(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1} M/s", rate / 1e6),
        rate if rate >= 10.0 => format!("{}/s", grouped(rate.round() as u64)),
        rate => format!("{rate:.2}/s"),
    }
}

/// Seconds since 1970 as a date and a time of day.
pub(crate) fn utc(seconds: f64) -> String {
    let seconds = seconds as i64;
    let (days, of_day) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Eras of 400 years that begin in March (H. Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3600, of_day / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [count(1, "batch"), count(2000, "batch"), count(3, "item")],
            ["1 batch", "2,000 batches", "3 items"]
        );
        assert_eq!([0.5, 12.4, 1234.5, 5e7].map(rate), ["0.50/s", "12/s", "1,235/s", "50.0 M/s"]);
        assert_eq!(seconds_of(0.0), "0");
        assert_eq!(utc(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_798_761_599.0), "2026-12-31 23:59 UTC");
    }
}
