//! Bar charts as SVG, legible on light and dark pages.

use maud::{PreEscaped, html};
use serde::{Deserialize, Serialize};

use crate::figures::short;

/// Horizontal bars, each with its figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Chart {
    /// The file's name, without its ending.
    pub(crate) name: String,
    /// What the bars show, in which unit, and which way is better.
    pub(crate) caption: String,
    pub(crate) bars: Vec<(String, f64)>,
}

const WIDTH: f64 = 680.0;
/// What a character of a label takes at most, on the average, and what stands between label and bar.
const CHARACTER: f64 = 7.4;
const GAP: f64 = 8.0;
const FIGURES: f64 = 70.0;
const BAR: f64 = 24.0;

/// The colours of text and bars follow the reader's setting; without one they suit both.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#57606a}\
.title{font-weight:600}.bar{fill:#8c959f}.own{fill:#d9730d}\
@media(prefers-color-scheme:dark){text{fill:#c9d1d9}.bar{fill:#6e7681}.own{fill:#f0883e}}";

impl Chart {
    pub(crate) fn new(name: &str, caption: impl Into<String>, bars: Vec<(String, Option<f64>)>) -> Self {
        let bars = bars.into_iter().filter_map(|(label, value)| Some((label, value?))).collect();
        Chart { name: name.to_owned(), caption: caption.into(), bars }
    }

    /// Bars that differ by more than a factor of 50 stand on a logarithmic scale, and the chart says so.
    pub(crate) fn svg(&self) -> String {
        let values = || self.bars.iter().map(|(_, value)| *value).filter(|value| *value > 0.0);
        let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        let logarithmic = most > 50.0 * least;
        let characters = self.bars.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let labels = (characters as f64 * CHARACTER + GAP).round();
        let length = |value: f64| {
            let share = match logarithmic {
                true => (value / least * 2.0).ln() / (most / least * 2.0).ln(),
                false => value / most,
            };
            share.clamp(0.0, 1.0) * (WIDTH - labels - FIGURES)
        };
        let height = BAR * (self.bars.len() as f64 + 2.0);
        let scale = if logarithmic { " (logarithmic)" } else { "" };
        let shapes = self.bars.iter().enumerate().map(|(index, (label, value))| {
            let top = BAR * (index as f64 + 1.3);
            let class = if label.starts_with("fastmap") { "own" } else { "bar" };
            let length = length(*value);
            let baseline = format!("{:.0}", top + 13.0);
            html! {
                text x=(format!("{:.0}", labels - GAP)) y=(baseline) text-anchor="end" { (label) }
                rect class=(class) x=(labels) y=(format!("{top:.0}")) width=(format!("{length:.1}")) height="17" rx="2" {}
                text x=(format!("{:.0}", labels + length + 6.0)) y=(baseline) { (short(*value)) }
                "\n"
            }
        });
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (height) } role="img" {
                title { (self.caption) } "\n"
                style { (PreEscaped(STYLE)) } "\n"
                text class="title" x="0" y="16" { (self.caption) (scale) } "\n"
                @for shape in shapes { (shape) }
            }
        };
        svg.into_string() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_its_room_and_what_failed_has_none() {
        let bars = vec![
            ("raw".to_owned(), Some(2.0)),
            ("fastmap".to_owned(), Some(4.0)),
            ("a <b>".to_owned(), None),
        ];
        let svg = Chart::new("name", "MB/s & more", bars).svg();
        assert!(svg.contains("class=\"bar\" x=\"60\" y=\"31\" width=\"275.0\""), "{svg}");
        assert!(svg.contains("class=\"own\" x=\"60\" y=\"55\" width=\"550.0\""), "{svg}");
        assert!(svg.contains(">2.00</text>"), "{svg}");
        assert!(
            svg.contains("MB/s &amp; more") && !svg.contains("logarithmic") && !svg.contains("a &lt;b"),
            "{svg}"
        );
    }

    #[test]
    fn bars_of_different_orders_of_magnitude_are_all_seen() {
        let bars = vec![("little".to_owned(), Some(0.1)), ("much".to_owned(), Some(5000.0))];
        let svg = Chart::new("name", "ms", bars).svg();
        assert!(svg.contains("(logarithmic)") && !svg.contains("width=\"0.0\""), "{svg}");
    }
}
