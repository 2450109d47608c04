//! The page: one file that needs nothing else, no network and no script. Text around the drawings of `charts`.
//! All text is escaped by the templates: labels, functions and what workers said on their deaths are anybody's.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts;
use super::lanes::Lane;
use super::record::{Counted, Event};
use crate::report::timings::format::{count, grouped, percent, rate, seconds_of, utc};
use crate::report::timings::model::Document;

const STYLE: &str = include_str!("style.css");

/// The page, with the JSON in it.
pub(crate) fn page(document: &Document) -> String {
    let title = document.label.as_deref().unwrap_or(&document.function);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content={ "fastmap " (env!("CARGO_PKG_VERSION")) };
                title { (title) " – fastmap timings" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        h1 { (title) }
                        p.soft {
                            @if document.label.is_some() { (document.function) " · " }
                            (document.backend) " · " (utc(document.date))
                            @if !document.complete { " · not read to its end" }
                        }
                    }
                    ul.diagnosis aria-label="Diagnosis" {
                        @for sentence in &document.diagnosis { li { (sentence) } }
                    }
                    (figures(document))
                    (timeline(document))
                    (over_time(document))
                    (item_times(document))
                    (slowest(document))
                    (deaths(document))
                    (events("Failures", "What the function answered with an error, tries that were repeated included.", "Why", &document.failures))
                    (events("Tried again", "Items that went out once more, alone, after a failure or a death.", "Which try", &document.retries))
                    (events("Decisions", "Where the items from there on were sent, and why.", "Decision", &document.decisions))
                    p.soft { "The figures of this page stand in it as JSON, in the element with the id “timings”; a path that ends in .json gets them alone." }
                }
                script type="application/json" id="timings" { (PreEscaped(harmless(&document.json()))) }
            }
        }
    };
    page.into_string()
}

/// JSON that can't end its element: a `<` stands in its strings alone.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c")
}

fn figure(name: &str, value: &str, more: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) @if !more.is_empty() { " " small { (more) } } } } }
}

fn figures(document: &Document) -> Markup {
    let Document { items, batches, workers, item_seconds, .. } = document;
    let each = (items.answered + items.here) as f64 / batches.answered.max(1) as f64;
    let expected = match items.expected {
        Some(all) if all != items.delivered => format!("of {}", grouped(all)),
        _ => String::new(),
    };
    html! {
        dl.figures {
            (figure("Time", &seconds_of(document.seconds), ""))
            (figure("Items", &grouped(items.delivered), &expected))
            (figure("Throughput", &rate(items.delivered as f64 / document.seconds.max(1e-9)), ""))
            @if workers.most > 0 {
                (figure("Workers", &workers.most.to_string(), &format!("busy {}", percent(1.0 - workers.idle))))
            }
            (figure("Batches", &grouped(batches.answered), &format!("{each:.1} items each")))
            (figure("An item takes", &seconds_of(item_seconds.median), &format!("99 %: below {}", seconds_of(item_seconds.p99))))
            @if items.from_checkpoint > 0 { (figure("From the checkpoint", &grouped(items.from_checkpoint), "")) }
            @if items.failed > 0 { (figure("Failed", &grouped(items.failed), "")) }
            @if document.deaths.total > 0 { (figure("Workers lost", &grouped(document.deaths.total), "")) }
            @if document.retries.total > 0 { (figure("Tried again", &grouped(document.retries.total), "")) }
            @if document.credits > 0.0 { (figure("Credits", &format!("{:.6}", document.credits), "")) }
        }
    }
}

/// What the colours mean.
fn legend(entries: &[(&str, String)]) -> Markup {
    html! { ul.legend { @for (class, text) in entries { li class=(class) { span { (text) } } } } }
}

/// Times below a drawing.
fn axis(seconds: f64) -> Markup {
    html! {
        div.axis aria-hidden="true" {
            @for part in 0..5u32 { span { (seconds_of(seconds * f64::from(part) / 4.0)) } }
        }
    }
}

fn timeline(document: &Document) -> Markup {
    if document.lanes.is_empty() {
        return html! {};
    }
    let mut colours = Vec::new();
    if document.lanes.iter().any(|lane| !lane.cloud) {
        colours.push(("here", "batches on this machine".to_owned()));
    }
    if document.lanes.iter().any(|lane| lane.cloud) {
        colours.push(("cloud", "batches in the cloud".to_owned()));
    }
    let slow = charts::Slow::of(document);
    if slow.any() {
        colours.push(("slow", "with one of the slowest items".to_owned()));
    }
    if document.deaths.total > 0 {
        colours.push(("dead", "a worker was lost".to_owned()));
    }
    let name = |lane: &Lane| format!("{}: {}", lane.worker, count(lane.batches, "batch"));
    let joined = document.batches.joined_within;
    html! {
        h2 { "Workers" }
        (legend(&colours))
        div.lanes tabindex="0" role="region" aria-label="Timeline of the workers" {
            @for lane in &document.lanes {
                div.lane {
                    span title=(lane.worker) { (lane.worker) }
                    (charts::lane(lane, document.seconds, &slow, &name(lane)))
                    span { (percent(lane.busy / document.seconds.max(1e-9))) " busy" }
                }
            }
        }
        (axis(document.seconds))
        @if joined > 0.0 {
            p.soft { "Batches of one worker that lie within " (seconds_of(joined)) " are drawn as one, the paler the less it had to do." }
        }
    }
}

fn over_time(document: &Document) -> Markup {
    let Document { program, over_time, seconds, .. } = document;
    let share = |name: &str, part: f64| format!("{name} {}", percent(part / seconds.max(1e-9)));
    let mut did = vec![
        ("input", share("reading the input", program.input)),
        ("waiting", share("waiting for workers", program.waiting)),
        ("using", share("using the results and the rest", program.using)),
    ];
    if program.running > 0.0 {
        did.push(("running", share("running items itself", program.running)));
    }
    let throughput = charts::Throughput::of(over_time, *seconds);
    let mut places = vec![("here", "on this machine".to_owned())];
    if throughput.any_cloud() {
        places.push(("cloud", "in the cloud".to_owned()));
    }
    html! {
        h2 { "Throughput" }
        (legend(&places))
        figure {
            figcaption { "Items answered a second, up to " (rate(throughput.most())) }
            (throughput.draw())
            (axis(over_time.width * over_time.bins.len() as f64))
        }
        h2 { "What the program did" }
        (legend(&did))
        figure {
            figcaption { "Shares of the time of the thread that maps" }
            (charts::program(over_time, *seconds))
            (axis(over_time.width * over_time.bins.len() as f64))
        }
        h2 { "Sizes of batches" }
        figure {
            @let (drawing, most) = charts::batch_sizes(over_time);
            figcaption { "Items in the smallest and the largest batch that was sent, on a scale of powers of two up to " (grouped(most.into())) }
            (drawing)
            (axis(over_time.width * over_time.bins.len() as f64))
        }
    }
}

fn item_times(document: &Document) -> Markup {
    let times = &document.item_seconds;
    let (Some(first), Some(last)) = (times.histogram.first(), times.histogram.last()) else {
        return html! {};
    };
    html! {
        h2 { "Times of items" }
        figure {
            figcaption {
                "Half of them below " (seconds_of(times.median)) ", 90 % below " (seconds_of(times.p90))
                ", 99 % below " (seconds_of(times.p99)) "; each step upward is ten times as many items"
            }
            (charts::histogram(&times.histogram))
            div.axis aria-hidden="true" { span { (seconds_of(first.0)) } span { (seconds_of(last.1)) } }
        }
    }
}

/// A table that scrolls by itself where it is too wide.
fn table(name: &str, heads: &Markup, rows: &Markup) -> Markup {
    html! {
        div.table tabindex="0" role="region" aria-label=(name) {
            table { thead { tr { (heads) } } tbody { (rows) } }
        }
    }
}

fn slowest(document: &Document) -> Markup {
    if document.slowest.is_empty() {
        return html! {};
    }
    let median = document.item_seconds.median.max(1e-9);
    html! {
        h2 { "Slowest items" }
        (table("Slowest items",
            &html! { th.n { "Item" } th.n { "Took" } th.n { "Times the median" } th.n { "Ended after" } th { "Worker" } },
            &html! {
                @for slow in &document.slowest {
                    tr {
                        td.n { (slow.item) @if slow.among > 1 { "–" (slow.item + u64::from(slow.among) - 1) } }
                        td.n { (seconds_of(slow.seconds)) }
                        td.n { (format!("{:.1}", slow.seconds / f64::from(slow.among) / median)) }
                        td.n { (seconds_of(slow.at)) }
                        td { (slow.worker) }
                    }
                }
            }
        ))
    }
}

fn deaths(document: &Document) -> Markup {
    let deaths = &document.deaths;
    if deaths.total == 0 {
        return html! {};
    }
    html! {
        h2 { "Workers lost" }
        (table("Workers lost",
            &html! { th.n { "After" } th { "Worker" } th.n { "Item" } th { "How" } },
            &html! {
                @for died in &deaths.first {
                    tr {
                        td.n { (seconds_of(died.at)) }
                        td { (died.worker) }
                        td.n { @match died.item { Some(item) => (item), None => "–" } }
                        td { (died.cause) }
                    }
                }
            }
        ))
        (further(deaths))
    }
}

fn events(name: &str, about: &str, what: &str, events: &Counted<Event>) -> Markup {
    if events.total == 0 {
        return html! {};
    }
    html! {
        h2 { (name) }
        p.soft { (about) }
        (table(name,
            &html! { th.n { "After" } th.n { "Item" } th { (what) } },
            &html! {
                @for event in &events.first {
                    tr { td.n { (seconds_of(event.at)) } td.n { (event.item) } td { (event.what) } }
                }
            }
        ))
        (further(events))
    }
}

fn further<T>(counted: &Counted<T>) -> Markup {
    let further = counted.total - counted.first.len() as u64;
    html! { @if further > 0 { p.soft { "… and " (grouped(further)) " more." } } }
}
