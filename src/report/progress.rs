//! Progress of a running map: a line that is redrawn on a terminal, else a line now and then.
//! The lines are pure functions of the state and the terminal's width; `Progress` decides when, `console` draws.

use std::time::{Duration, Instant};

use console::{Style, measure_text_width, truncate_str};
use fastmap_backends::counted;
use indicatif::ProgressBar;

use super::console as screen;
use crate::report::bar::{LEAST_BAR, MOST_BAR, bar};
use crate::report::format::clock;

/// A map that is over sooner shows no bar.
const BAR_AFTER: Duration = Duration::from_millis(500);
const REDRAW: Duration = Duration::from_millis(100);
/// Without a terminal: the first line, and the longest time between two.
const LINE_AFTER: Duration = Duration::from_secs(5);
const LINE_AT_LAST: Duration = Duration::from_secs(60);

/// Columns of a label beside it, at most.
const MOST_LABEL: usize = 24;

/// How far a map is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State<'a> {
    pub(crate) label: Option<&'a str>,
    pub(crate) done: u64,
    pub(crate) total: Option<u64>,
    pub(crate) elapsed: Duration,
    pub(crate) failed: u64,
    /// Workers that were lost.
    pub(crate) lost: u64,
    /// Items answered by workers in all, and of these by a service.
    pub(crate) answered: u64,
    pub(crate) cloud: u64,
    pub(crate) microcredits: u64,
}

impl State<'_> {
    fn count(&self) -> String {
        match self.total {
            Some(total) => format!("{}/{total}", self.done),
            None => counted(self.done, "item"),
        }
    }

    /// What follows the count, the more important first. The first of them are failures and losses, so many.
    fn details(&self) -> (Vec<String>, usize) {
        let mut details = Vec::new();
        for (count, what) in [(self.failed, "failed"), (self.lost, "lost")] {
            if count > 0 {
                details.push(format!("{count} {what}"));
            }
        }
        let warnings = details.len();
        let rate = self.done as f64 / self.elapsed.as_secs_f64().max(1e-9);
        details.push(match self.total.filter(|_| self.done > 0) {
            Some(total) => {
                let left = total.saturating_sub(self.done) as f64 / rate;
                format!("{} left", clock(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX)))
            }
            None => clock(self.elapsed),
        });
        details.push(if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{rate:.0}/s") });
        if self.cloud > 0 {
            let share = self.cloud as f64 / self.answered.max(1) as f64 * 100.0;
            details.push(format!("{:.0}% here {share:.0}% cloud", 100.0 - share));
        }
        if self.microcredits > 0 {
            details.push(format!("{:.4} credits", self.microcredits as f64 / 1e6));
        }
        (details, warnings)
    }

    /// The line of a terminal, at most so many columns wide: what does not fit is left out, the least important first.
    pub(crate) fn drawn(&self, width: usize) -> String {
        let count = self.count();
        let mut left = width.saturating_sub(measure_text_width(&count));
        let (details, warnings) = self.details();
        let mut detail_text = String::new();
        for (index, detail) in details.iter().enumerate() {
            let needed = detail.len() + 2;
            if needed > left {
                break;
            }
            left -= needed;
            detail_text += if index == 0 { "  " } else { ", " };
            // As the surroundings want it: `NO_COLOR` and terminals without colours are respected.
            let style = if index < warnings { Style::new().for_stderr().red() } else { Style::new() };
            detail_text += &style.apply_to(detail).to_string();
        }
        let bar_needs = if self.total.is_some() { LEAST_BAR + 1 } else { 0 };
        let mut line = String::new();
        if let Some(label) = self.label.map(crate::report::format::shown)
            && left > bar_needs + 6
        {
            let label = truncate_str(&label, MOST_LABEL.min(left - bar_needs - 1), "…").into_owned();
            left -= measure_text_width(&label) + 1;
            line = label + " ";
        }
        if let Some(total) = self.total
            && left > LEAST_BAR
        {
            let columns = (left - 1).min(MOST_BAR);
            line += &bar(self.done, total, columns);
            line.push(' ');
        }
        truncate_str(&(line + &count + &detail_text), width, "").into_owned()
    }

    /// The line where nothing can be drawn again.
    pub(crate) fn written(&self) -> String {
        let share = match self.total {
            Some(total) if total > 0 => format!(" ({:.0} %)", self.done as f64 / total as f64 * 100.0),
            _ => String::new(),
        };
        format!("{}{share}, {}", self.count(), self.details().0.join(", "))
    }
}

/// When a map is told of, and how.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// When the next line is due.
    next: Option<Instant>,
}

impl Progress {
    /// The map has begun, and is to be told of.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.next = Some(now + if screen::is_drawn() { BAR_AFTER } else { LINE_AFTER });
    }

    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        self.next.is_some()
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| now >= next)
    }

    pub(crate) fn show(&mut self, now: Instant, state: &State<'_>, say: impl FnOnce(&str)) {
        if screen::is_drawn() {
            self.next = Some(now + REDRAW);
            screen::draw(&mut self.bar, |width| state.drawn(width));
        } else {
            self.next = Some(now + (state.elapsed / 4).clamp(LINE_AFTER, LINE_AT_LAST));
            say(&state.written());
        }
    }

    /// Takes the bar away; nothing more is told.
    pub(crate) fn end(&mut self) {
        self.next = None;
        if let Some(bar) = self.bar.take() {
            screen::remove(&bar);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::bar::upload;

    #[test]
    #[cfg(feature = "cloud")]
    fn an_upload_fits_any_terminal() {
        for width in 0..120 {
            let line = upload("executable", 3_000_000, 12_000_000, width);
            assert!(measure_text_width(&line) <= width, "{width}: {line:?}");
        }
        let line = upload("executable", 3_000_000, 12_000_000, 100);
        assert!(line.starts_with("uploading the executable ") && line.ends_with(" 3.0 of 12.0 MB"), "{line}");
        assert_eq!(line.matches(['█', '░']).count(), MOST_BAR);
        assert_eq!(line.matches('█').count(), MOST_BAR / 4);
    }

    fn state() -> State<'static> {
        State {
            label: Some("squares"),
            done: 50,
            total: Some(200),
            elapsed: Duration::from_secs(1),
            failed: 2,
            answered: 60,
            cloud: 15,
            microcredits: 12_345,
            ..State::default()
        }
    }

    #[test]
    fn with_room_for_all_everything_is_told() {
        let line = state().drawn(120);
        assert!(line.starts_with("squares ██████████░░░"), "{line}");
        let end = " 50/200  2 failed, 3 s left, 50/s, 75% here 25% cloud, 0.0123 credits";
        assert!(line.ends_with(end), "{line}");
    }

    #[test]
    fn whatever_the_width_the_line_fits_and_the_count_comes_first() {
        for label in [
            None,
            Some("a label that is longer than all terminals on which it is ever shown"),
            Some("目录\u{1b}[2J\n"),
        ] {
            for total in [None, Some(200)] {
                for width in 0..200 {
                    let line = State { label, total, ..state() }.drawn(width);
                    assert!(measure_text_width(&line) <= width, "{width}: {line}");
                    assert!(!line.contains(['\n', '\u{1b}']), "{line:?}");
                    assert!(width < 8 || line.contains("50"), "{width}: {line}");
                }
            }
        }
        assert_eq!(state().drawn(20), "50/200  2 failed");
        assert_eq!(State { failed: 0, ..state() }.drawn(20), "50/200  3 s left");
        assert_eq!(State { failed: 0, ..state() }.drawn(26), "50/200  3 s left, 50/s");
        assert_eq!(state().drawn(44), "██░░░░░░░░░ 50/200  2 failed, 3 s left, 50/s");
    }

    #[test]
    fn a_line_tells_rate_and_time_left_or_passed() {
        let written = |done, total, elapsed, failed| {
            State { done, total, elapsed: Duration::from_secs(elapsed), failed, ..State::default() }.written()
        };
        assert_eq!(written(50, Some(200), 1, 0), "50/200 (25 %), 3 s left, 50/s");
        assert_eq!(written(10, Some(100_000), 1, 2), "10/100000 (0 %), 2 failed, 2:46:39 left, 10/s");
        assert_eq!(written(500, None, 90, 0), "500 items, 1:30, 5.6/s");
        assert_eq!(written(0, Some(5), 2, 0), "0/5 (0 %), 2 s, 0.0/s");
    }
}
