//! The drawings of the page, as SVG that is stretched to whatever width there is: shapes alone, the text stands around
//! them. Pure functions of the figures.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::bins::{Bin, Bins};
use super::lanes::{Lane, Span};
use crate::report::timings::format::{count, seconds_of};
use crate::report::timings::model::Document;

/// Length and height of a drawing, in its own units.
const WIDE: f64 = 1000.0;
const HIGH: f64 = 100.0;
/// With more spans than this only those of a single batch have a title, so that the file stays small.
const LABELLED: usize = 2048;

fn svg(about: &str, shapes: &Markup) -> Markup {
    html! {
        svg viewBox={ "0 0 " (WIDE) " " (HIGH) } preserveAspectRatio="none" role="img" aria-label=(about) { (shapes) }
    }
}

/// Which spans hold one of the slowest items.
#[derive(Debug)]
pub(crate) struct Slow<'a> {
    document: &'a Document,
    labels_all: bool,
}

impl<'a> Slow<'a> {
    pub(crate) fn of(document: &'a Document) -> Self {
        let spans: usize = document.lanes.iter().map(|lane| lane.spans.len()).sum();
        Slow { document, labels_all: spans <= LABELLED }
    }

    /// Slow is what takes ten times as long as others do.
    fn items(&self) -> impl Iterator<Item = u64> + '_ {
        let median = self.document.item_seconds.median;
        let slow = self.document.slowest.iter();
        slow.filter(move |slow| slow.seconds >= 10.0 * median * f64::from(slow.among)).map(|slow| slow.item)
    }

    pub(crate) fn any(&self) -> bool {
        self.items().next().is_some()
    }

    fn is_in(&self, span: &Span) -> bool {
        span.batches <= 1 && self.items().any(|item| (span.first..span.first + span.items).contains(&item))
    }
}

/// One worker's batches.
pub(crate) fn lane(lane: &Lane, seconds: f64, slow: &Slow<'_>, about: &str) -> Markup {
    let scale = WIDE / seconds.max(1e-9);
    let place = if lane.cloud { "cloud" } else { "here" };
    svg(
        about,
        &html! {
            @for span in &lane.spans {
                @let wide = ((span.to - span.from) * scale).max(0.4);
                @let share = (span.busy / (span.to - span.from).max(1e-9)).clamp(0.15, 1.0);
                rect class=(if slow.is_in(span) { "slow" } else { place })
                    x=(short(span.from * scale)) y="12" width=(short(wide)) height="76"
                    // Two batches that follow each other are told apart by what is between them.
                    fill-opacity=[(span.batches > 1 && share < 0.995).then(|| short(share))] {
                    @if slow.labels_all || span.batches <= 1 { title { (span_title(span)) } }
                }
            }
            @if let Some(died) = lane.died {
                line.dead x1=(short(died * scale)) x2=(short(died * scale)) y1="0" y2="100" {
                    title { "lost after " (seconds_of(died)) }
                }
            }
        },
    )
}

fn span_title(span: &Span) -> String {
    let last = span.first + span.items.saturating_sub(1);
    let items = match span.items {
        1 => format!("item {}", span.first),
        _ if span.batches <= 1 => format!("items {} to {last}", span.first),
        items => format!("{items} items from {} on", span.first),
    };
    let batches = if span.batches <= 1 { String::new() } else { count(span.batches, "batch") + ", " };
    format!("{batches}{items}: {} from {} on", seconds_of(span.to - span.from), seconds_of(span.from))
}

/// A number of a drawing: what is less than a hundredth of a unit is not seen.
fn short(number: f64) -> String {
    let mut text = format!("{number:.2}");
    text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    text
}

/// A line of steps with all that is below it: one height from 0 to 1 for each bin.
fn steps(heights: impl ExactSizeIterator<Item = f64>) -> String {
    let step = WIDE / heights.len().max(1) as f64;
    let mut path = format!("M0 {HIGH}");
    for (index, height) in heights.enumerate() {
        let (y, x) = (HIGH * (1.0 - height.clamp(0.0, 1.0)), step * (index + 1) as f64);
        let _infallible = write!(path, "V{}H{}", short(y), short(x));
    }
    path + &format!("V{HIGH}Z")
}

/// Items a second.
#[derive(Debug)]
pub(crate) struct Throughput {
    here: Vec<f64>,
    all: Vec<f64>,
}

/// What there is of each bin: the last one may be cut short.
fn length(bins: &Bins, index: usize, seconds: f64) -> f64 {
    let rest = seconds - index as f64 * bins.width;
    // Answers may come a little behind the end.
    rest.clamp(bins.width / 4.0, bins.width)
}

impl Throughput {
    pub(crate) fn of(bins: &Bins, seconds: f64) -> Self {
        let each = |items: fn(&Bin) -> u64| {
            let rate = |(index, bin): (usize, &Bin)| items(bin) as f64 / length(bins, index, seconds);
            bins.bins.iter().enumerate().map(rate).collect()
        };
        Throughput { here: each(|bin| bin.here), all: each(|bin| bin.here + bin.cloud) }
    }

    pub(crate) fn most(&self) -> f64 {
        self.all.iter().copied().fold(0.0, f64::max)
    }

    pub(crate) fn any_cloud(&self) -> bool {
        self.all.iter().sum::<f64>() > self.here.iter().sum()
    }

    pub(crate) fn draw(&self) -> Markup {
        let most = self.most().max(1e-9);
        let path = |rates: &[f64]| steps(rates.iter().map(|rate| rate / most));
        svg(
            "Items answered a second over the time of the map",
            &html! {
                @if self.any_cloud() { path.cloud d=(path(&self.all)) {} }
                path.here d=(path(&self.here)) {}
            },
        )
    }
}

/// What the thread that maps did with each bin's time.
pub(crate) fn program(bins: &Bins, seconds: f64) -> Markup {
    let shares = |part: fn(&Bin) -> f64| {
        let share = |(index, bin): (usize, &Bin)| part(bin) / length(bins, index, seconds);
        steps(bins.bins.iter().enumerate().map(share))
    };
    let all = shares(|_| f64::INFINITY);
    svg(
        "Shares of time in which the program read the input, waited for workers and used the results",
        &html! {
            path.using d=(all) {}
            path.waiting d=(shares(|bin| bin.input + bin.waiting)) {}
            path.input d=(shares(|bin| bin.input)) {}
        },
    )
}

/// Items of the smallest and the largest batch, and the most of all.
pub(crate) fn batch_sizes(bins: &Bins) -> (Markup, u32) {
    let most = bins.bins.iter().map(|bin| bin.most).max().unwrap_or(1).max(1);
    let scale = HIGH / (f64::from(most).log2() + 1.0);
    let height = |items: u32| scale * (f64::from(items.max(1)).log2() + 1.0);
    let step = WIDE / bins.bins.len().max(1) as f64;
    let mut path = String::new();
    for (index, bin) in bins.bins.iter().enumerate().filter(|(_, bin)| bin.batches > 0) {
        let (top, bottom) = (HIGH - height(bin.most), HIGH - height(bin.fewest));
        let (x, y, step) = (short(index as f64 * step), short(top), short(step));
        let _infallible = write!(path, "M{x} {y}h{step}v{}h-{step}z", short((bottom - top).max(3.0)));
    }
    (svg("Sizes of batches over the time of the map", &html! { path.here d=(path) {} }), most)
}

/// Items by their times, both on scales of powers.
pub(crate) fn histogram(buckets: &[(f64, f64, u64)]) -> Markup {
    let most = buckets.iter().map(|(.., items)| *items).max().unwrap_or(1).max(1);
    let height = |items: u64| match items {
        0 => 0.0,
        items => (1.0 + (items as f64).log10()) / (1.0 + (most as f64).log10()),
    };
    let path = steps(buckets.iter().map(|(.., items)| height(*items)));
    svg("How many items took how long", &html! { path.here d=(path) {} })
}
