//! The estimates as a picture: for each measurement a panel, for each group the medians of females and males with
//! their intervals. SVG by hand; it follows the reader's choice of light or dark.

use std::fmt::Write as _;

use crate::{Estimate, Group, Sex};

/// Of a panel and of what stands in it, in pixels.
const PANEL: f64 = 380.0;
const LEFT: f64 = 130.0;
const TOP: f64 = 40.0;
const ROW: f64 = 26.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.title{font-weight:600}.axis{stroke:#bbb}\
    .female{stroke:#b3445f;fill:#b3445f}.male{stroke:#2a6fb0;fill:#2a6fb0}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.axis{stroke:#555}.female{stroke:#f08aa2;fill:#f08aa2}\
    .male{stroke:#7ab8f0;fill:#7ab8f0}}";

/// Draws what was estimated, in the order of the groups.
pub(crate) fn draw<'a>(all: impl Iterator<Item = (&'a Group, &'a Estimate)>) -> String {
    let all: Vec<_> = all.collect();
    let mut names: Vec<&str> = all.iter().map(|(group, _)| group.2).collect();
    names.sort_unstable();
    names.dedup();
    let mut places: Vec<(&str, &str)> = all.iter().map(|(group, _)| (&*group.0, &*group.1)).collect();
    places.dedup();
    let high = TOP + ROW * places.len() as f64 + 46.0;
    let (width, height) = (2.0 * PANEL, high * names.len().div_ceil(2) as f64 + 30.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\
         <title>Medians of penguins with their 95 % intervals</title><style>{STYLE}</style>\n"
    );
    for (number, name) in names.into_iter().enumerate() {
        let (x, y) = ((number % 2) as f64 * PANEL, (number / 2) as f64 * high);
        let panel: Vec<_> = all.iter().filter(|(group, _)| group.2 == name).collect();
        let low = panel.iter().map(|(_, it)| it.low).fold(f64::MAX, f64::min);
        let most = panel.iter().map(|(_, it)| it.high).fold(f64::MIN, f64::max);
        let to = |value: f64| x + LEFT + (value - low) / (most - low) * (PANEL - LEFT - 30.0);
        let bottom = y + TOP + ROW * places.len() as f64;
        let mut draw = |text: std::fmt::Arguments<'_>| {
            let _infallible = writeln!(svg, "{text}");
        };
        draw(format_args!("<text class=\"title\" x=\"{}\" y=\"{}\">{name}</text>", x + LEFT, y + 22.0));
        draw(format_args!(
            "<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{bottom}\" y2=\"{bottom}\"/>",
            to(low),
            to(most)
        ));
        for (value, anchor) in [(low, "start"), (most, "end")] {
            let (x, y) = (to(value), bottom + 18.0);
            draw(format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{value:.1}</text>"));
        }
        for (row, (species, island)) in (0_u8..).zip(&places) {
            let middle = y + TOP + ROW * (f64::from(row) + 0.5);
            draw(format_args!(
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{species}, {island}</text>",
                x + LEFT - 10.0,
                middle + 4.0
            ));
            let here = panel.iter().filter(|(group, _)| (&*group.0, &*group.1) == (*species, *island));
            for (group, Estimate { median, low, high }) in here {
                let (class, y) = match group.3 {
                    Sex::Female => ("female", middle - 5.0),
                    Sex::Male => ("male", middle + 5.0),
                };
                draw(format_args!(
                    "<line class=\"{class}\" stroke-width=\"2\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\"/>\
                     <circle class=\"{class}\" r=\"3.5\" cx=\"{:.1}\" cy=\"{y}\"/>",
                    to(*low),
                    to(*high),
                    to(*median)
                ));
            }
        }
    }
    let y = height - 10.0;
    let _infallible = write!(
        svg,
        "<circle class=\"female\" r=\"4\" cx=\"{}\" cy=\"{}\"/><text x=\"{}\" y=\"{y}\">females</text>\
         <circle class=\"male\" r=\"4\" cx=\"{}\" cy=\"{}\"/><text x=\"{}\" y=\"{y}\">males; the line is the 95 % \
         interval of the median</text>\n</svg>\n",
        LEFT,
        y - 4.0,
        LEFT + 10.0,
        LEFT + 90.0,
        y - 4.0,
        LEFT + 100.0
    );
    svg
}
