//! Charts, drawn here: SVG without text, stretched to whatever room there is; what must be read stands beside it in HTML.
//! One path for all bars of a colour, so that a chart is some kilobytes at most.

use std::fmt::Write;

use maud::{Markup, html};

use super::show;
use crate::pricing::Microcredits;
use crate::stats::{Point, Slots};

/// Height of a chart in its own units.
const HEIGHT: f64 = 100.0;

/// Items a second over time, with what failed of them.
pub(super) fn throughput(points: &Slots<Point>, now: Option<i64>) -> Markup {
    let Some((from, mut to)) = points.span() else { return html! {} };
    let mut values: Vec<Point> = points.values.iter().copied().collect();
    // Of a run that goes on, time goes on; and the second that has just begun says nothing yet.
    if let Some(now) = now {
        while to <= now && values.len() < 2000 {
            values.push(Point::default());
            to += points.width;
        }
        if values.len() > 1 {
            values.pop();
            to -= points.width;
        }
    }
    let rate = |items: u64| items as f64 / points.width as f64;
    let peak = values.iter().map(|point| rate(point.items)).fold(0.0, f64::max);
    let bars = |of: fn(&Point) -> u64| {
        let mut path = String::new();
        for (at, value) in values.iter().map(of).enumerate().filter(|(_, value)| *value > 0) {
            // A failure among many is seen, too.
            let height = (rate(value) / peak.max(f64::MIN_POSITIVE) * HEIGHT).max(1.5);
            bar(&mut path, at as f64, HEIGHT - height, 1.0, height);
        }
        path
    };
    let (all, failed) = (bars(|point| point.items), bars(|point| point.failures));
    let words = format!(
        "Items a second from {} to {}, at most {}",
        show::clock(from * 1000),
        show::clock(to * 1000),
        show::about(peak)
    );
    html! {
        figure.chart {
            figcaption { "Throughput: at most " b { (show::about(peak)) " items/s" } }
            svg role="img" aria-label=(words) viewBox=(format!("0 0 {} {HEIGHT}", values.len().max(1)))
                preserveAspectRatio="none" {
                path.items d=(all) {}
                @if !failed.is_empty() { path.failed d=(failed) {} }
            }
            (axis(&show::clock(from * 1000), &show::clock(to * 1000)))
        }
    }
}

/// How busy a worker was, as shades on a strip from one second to another.
pub(super) fn strip(busy: &Slots<u64>, from: i64, to: i64) -> Markup {
    let mut shades: [String; 4] = Default::default();
    // Neighbours of one shade are one bar.
    let mut open: Option<(usize, i64, i64)> = None;
    let mut close = |open: Option<(usize, i64, i64)>| {
        if let Some((shade, begin, end)) = open {
            let (x, width) = (begin * busy.width - from, (end - begin) * busy.width);
            bar(&mut shades[shade], x as f64, 0.0, width as f64, 10.0);
        }
    };
    for (slot, ms) in (busy.first..).zip(&busy.values).filter(|(_, ms)| **ms > 0) {
        let share = *ms as f64 / (busy.width * 1000) as f64;
        let shade = ((share * 4.0).ceil() as usize).clamp(1, 4) - 1;
        open = match open {
            Some((same, begin, end)) if same == shade && end == slot => Some((shade, begin, slot + 1)),
            before => {
                close(before);
                Some((shade, slot, slot + 1))
            }
        };
    }
    close(open);
    html! {
        svg.strip aria-hidden="true" viewBox=(format!("0 0 {} 10", (to - from).max(1))) preserveAspectRatio="none" {
            @for (shade, path) in shades.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
                path class=(format!("busy{}", shade + 1)) d=(path) {}
            }
        }
    }
}

fn bar(path: &mut String, x: f64, y: f64, width: f64, height: f64) {
    let _fits = write!(path, "M{x} {y:.1}h{width}v{height:.1}h-{width}z");
}

/// A balance over time: pairs of a time in milliseconds and the balance from then on, oldest first.
pub(super) fn balance(history: &[(i64, Microcredits)]) -> Markup {
    let (Some((from, _)), Some((to, last))) = (history.first(), history.last()) else { return html! {} };
    let amounts = history.iter().map(|(_, balance)| *balance);
    let (least, most) = (amounts.clone().min().unwrap_or(0), amounts.max().unwrap_or(0).max(1));
    // Where little was spent of much, the line from nothing up would be a flat one: then it is from the least up, and the
    // area under it, which would mean something, is not filled.
    let whole = least < most / 2;
    let base = if whole { 0 } else { least };
    let (top, span) = ((most - base).max(1) as f64, (to - from).max(1) as f64);
    let x = |at: i64| (at - from) as f64 / span * 1000.0;
    let y = |amount: i64| HEIGHT - 4.0 - (amount - base) as f64 / top * (HEIGHT - 8.0);
    let mut line = String::new();
    for (at, amount) in history {
        let (x, y) = (x(*at), y(*amount));
        let _fits =
            if line.is_empty() { write!(line, "M{x:.1} {y:.1}") } else { write!(line, "H{x:.1}V{y:.1}") };
    }
    let area = format!("{line}V{HEIGHT}H0z");
    let label = |at: i64| if to - from < 36 * 3600 * 1000 { show::clock(at) } else { show::day(at) };
    let (low, high, now) = (show::credits(base), show::credits(most), show::credits(*last));
    let words = format!(
        "The balance from {} to {}, drawn from {low} to {high} credits; now {now}",
        label(*from),
        label(*to)
    );
    html! {
        figure.chart {
            figcaption { "Balance, from " b { (low) } " to " b { (high) } " credits" }
            svg role="img" aria-label=(words) viewBox=(format!("0 0 1000 {HEIGHT}")) preserveAspectRatio="none" {
                @if whole { path.area d=(area) {} }
                path.line d=(line) {}
            }
            (axis(&label(*from), &label(*to)))
        }
    }
}

fn axis(from: &str, to: &str) -> Markup {
    html! { div.axis aria-hidden="true" { span { (from) } span { (to) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_a_full_series_is_small() {
        let point = Point { items: 12_345, batches: 7, failures: 3 };
        let points = Slots { width: 64, first: 27_000_000, values: vec![point; 240].into() };
        let drawn = throughput(&points, None).0;
        assert!(drawn.len() < 16_000, "{}", drawn.len());
        assert!(drawn.contains("192.89") || drawn.contains("193"), "{drawn}");
        let busy = Slots { width: 128, first: 13_500_000, values: vec![64_000; 120].into() };
        let drawn = strip(&busy, 13_500_000 * 128, 13_500_120 * 128).0;
        assert!(drawn.contains(&format!("M0 0.0h{}v", 120 * 128)), "neighbours are one bar: {drawn}");
        let values = (0..120).map(|n| if n % 2 == 0 { 32_000 } else { 128_000 }).collect();
        let busy = Slots { values, ..busy };
        assert!(strip(&busy, 13_500_000 * 128, 13_500_120 * 128).0.len() < 4000);
    }

    #[test]
    fn what_is_empty_or_still_is_drawn_without_dividing_by_nothing() {
        assert_eq!(throughput(&Slots::default(), Some(5)).0, "");
        let idle = Slots { width: 1, first: 10, values: vec![Point::default()].into() };
        assert!(!throughput(&idle, None).0.contains("NaN"));
        assert_eq!(balance(&[]).0, "");
        assert!(!balance(&[(5, 0), (5, 0)]).0.contains("NaN"));
    }
}
