//! A run's page. Its parts are functions of what is known of the run; `live` sends those that have changed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use fastmap_backends::cloud::{LogLine, LogPage, Problem, RunInfo, RunState};
use fastmap_backends::mapped_function;
use maud::{Markup, html};
use serde::Deserialize;

use super::page::{Sorry, frame, sure};
use super::runs::{badge, bar, lasted, title};
use super::sign_in::Nothing;
use super::visitor::{Posted, Visitor};
use super::{chart, place, show};
use crate::app::Gateway;
use crate::clock::now_ms;
use crate::stats::{Failure, Point, Series, Slots};
use crate::store::{Run, Visit};

/// Failures on a run's page; others have all that are kept, so many each.
const FEW: usize = 20;
const MANY: usize = 50;
/// Seconds over which the rate of now is measured.
const LATELY: i64 = 10;
/// What of the log stands on the page: its last lines, together at most so many bytes.
const LINES: usize = 200;
const LOG: usize = 24 * 1024;
/// A longer line is cut there.
const LINE: usize = 1000;

/// All that a run's page shows.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) run: Run,
    series: Series,
    failures: Vec<Failure>,
    log: LogPage,
}

impl Known {
    /// Looks at a run of this account.
    pub(super) async fn of(gateway: &Gateway, account: i64, run: &str) -> Result<Known, Sorry> {
        let found = gateway.store.run(Some(account), run).await?.ok_or_else(Sorry::not_found)?;
        let (series, failures) = gateway.activity.of(run).await?;
        let log = gateway.events.last(run, LINES);
        Ok(Known { run: found, series, failures, log })
    }

    /// The parts that change, by name.
    pub(super) fn parts(&self, visit: &Visit) -> [(&'static str, Markup); 4] {
        [
            ("state", state(visit, &self.run)),
            ("view", view(&self.run, &self.series)),
            ("failures", failures(&self.run.info, &self.series, &self.failures)),
            ("log", log(&self.log)),
        ]
    }
}

pub(super) async fn show(
    State(gateway): State<Arc<Gateway>>,
    Visitor(visit): Visitor,
    Path(run): Path<String>,
) -> Result<Response, Sorry> {
    let known = Known::of(&gateway, visit.account, &run).await?;
    let info = &known.run.info;
    let live = (info.state == RunState::Open).then(|| format!("runs/{}/events", info.run));
    let content = html! {
        div hx-ext=[live.as_ref().map(|_| "sse")] sse-connect=[live.as_ref()] sse-close=[live.as_ref().map(|_| "closed")] {
            div.title {
                h1 { bdi { (title(info, 200)) } }
                p.quiet {
                    code { (show::path(mapped_function(&info.function), 200)) } " · run " code { (info.run) }
                }
            }
            @for (name, part) in known.parts(&visit) {
                div class=(name) sse-swap=[live.as_ref().map(|_| name)] { (part) }
            }
            @if live.is_some() { noscript { p.quiet { "Reload the page to see how the run goes on." } } }
        }
    };
    Ok(frame(Some(&visit), &title(info, 60), "Runs", &content).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    skip: usize,
}

pub(super) async fn all_failures(
    State(gateway): State<Arc<Gateway>>,
    Visitor(visit): Visitor,
    Path(run): Path<String>,
    Query(Wish { skip }): Query<Wish>,
) -> Result<Response, Sorry> {
    let known = Known::of(&gateway, visit.account, &run).await?;
    let info = &known.run.info;
    let address = format!("runs/{}", info.run);
    let (from, to) = (skip.min(known.failures.len()), (skip.saturating_add(MANY)).min(known.failures.len()));
    let content = html! {
        h1 { "Failures of " bdi { (title(info, 200)) } }
        p { a href=(address) { "To the run" } }
        @if from < to { (failure_table(&known.failures[from..to])) } @else { p.empty { "No failures." } }
        p.quiet { (kept(&known.series, &known.failures)) }
        nav.pages aria-label="Pages" {
            @if from > 0 { a href=(format!("{address}/failures?skip={}", from.saturating_sub(MANY))) rel="prev" { "← Earlier" } }
            @if to < known.failures.len() { a href=(format!("{address}/failures?skip={to}")) rel="next" { "Later →" } }
        }
    };
    Ok(frame(Some(&visit), "Failures", "Runs", &content).into_response())
}

pub(super) async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    Path(run): Path<String>,
    posted: Posted<Nothing>,
) -> Result<Redirect, Sorry> {
    let visit = posted.visit;
    let found = gateway.store.run(Some(visit.account), &run).await?.ok_or_else(Sorry::not_found)?;
    gateway.cancel(visit.account, &found.info.run).await.map_err(|refusal| Sorry::internal(&refusal.0))?;
    Ok(place::to(&format!("runs/{}", found.info.run)))
}

/// Where it stands, why, and the button that ends it.
fn state(visit: &Visit, run: &Run) -> Markup {
    let info = &run.info;
    let why = run.reason.as_deref().and_then(|reason| serde_json::from_str::<Problem>(reason).ok());
    html! {
        div.row {
            span role="status" { (badge(info.state)) }
            @if info.state == RunState::Open {
                (sure(visit, &format!("runs/{}/cancel", info.run), "Cancel …",
                    "Batches that run are given up, and only the time is charged that they have used beyond the run's free second; the map at the other end gets the error that its run has ended.",
                    "Cancel this run"))
            }
        }
        @if let Some(problem) = why { p.problem { b { (problem.title) } ": " (show::text(&problem.detail, 2000)) } }
    }
}

/// Progress, figures, throughput, workers.
fn view(run: &Run, series: &Series) -> Markup {
    let info = &run.info;
    let now = (info.state == RunState::Open).then(|| now_ms().div_euclid(1000));
    let lasted = lasted(info);
    let rate = match now {
        Some(now) => rate_lately(&series.points, now, info.opened_ms as i64 / 1000),
        None => info.items_answered as f64 / (lasted.max(1) as f64 / 1000.0),
    };
    let left = info.items.map(|items| items.saturating_sub(info.items_answered));
    html! {
        div.progress {
            @if let Some(items) = info.items { (bar(info.items_answered, items)) }
            p {
                b { (show::count(info.items_answered)) }
                @if let Some(items) = info.items {
                    " of " (show::count(items)) " items ("
                    (format!("{:.0}", 100.0 * info.items_answered as f64 / items.max(1) as f64)) " %)"
                } @else { " items" }
                " · " (show::about(rate)) " items/s"
                @if now.is_some() && rate > 0.0 && let Some(left) = left {
                    " · about " (show::duration((left as f64 / rate * 1000.0) as u64)) " left"
                }
            }
        }
        dl.figures {
            (figure("Batches", &show::count(info.batches)))
            (figure("Failures", &show::count(series.failures)))
            (figure("Deaths", &show::count(series.deaths)))
            (figure("vCPU seconds", &show::cpu_seconds(info.cpu_ns)))
            (figure("Credits", &show::credits(info.spent)))
            @if let Some(most) = info.max_credits { (figure("Spend cap", &show::credits(most))) }
            @if info.held > 0 { (figure("Reserved", &show::credits(info.held))) }
            (figure("Results", &show::bytes(info.result_bytes)))
            (figure("Duration", &show::duration(lasted)))
            div { dt { "Started" } dd { (show::moment(info.opened_ms as i64)) } }
            @if let Some(ended) = info.ended_ms { div { dt { "Ended" } dd { (show::moment(ended as i64)) } } }
        }
        (chart::throughput(&series.points, now))
        (workers(series, now))
    }
}

fn figure(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// Items a second of late.
fn rate_lately(points: &Slots<Point>, now: i64, opened: i64) -> f64 {
    // Only whole slots: the one that has just begun has too little.
    let (mut items, mut seconds) = (0, 0);
    let last = now.div_euclid(points.width);
    for slot in (0..last).rev() {
        if seconds >= LATELY.max(points.width) || (slot + 1) * points.width <= opened {
            break;
        }
        let at = usize::try_from(slot - points.first).ok();
        items += at.and_then(|at| points.values.get(at)).map_or(0, |point| point.items);
        seconds += points.width;
    }
    items as f64 / seconds.max(1) as f64
}

/// Who worked when.
fn workers(series: &Series, now: Option<i64>) -> Markup {
    let spans = series.lanes.iter().filter_map(|lane| lane.busy.span());
    let from = spans.clone().map(|span| span.0).min().unwrap_or(0);
    let to = spans.map(|span| span.1).chain(now).max().unwrap_or(from + 1);
    html! {
        @if !series.lanes.is_empty() {
            h2 { "Workers" }
            table.workers {
                thead {
                    tr {
                        th scope="col" { "Worker" }
                        th.wide scope="col" { "Busy, " (show::clock(from * 1000)) " to " (show::clock(to * 1000)) }
                        th.number scope="col" { "Items" }
                        th.number scope="col" { "vCPU s" }
                        th.number scope="col" { "Failures" }
                    }
                }
                tbody {
                    @for lane in &series.lanes {
                        tr {
                            th scope="row" { (show::text(&lane.worker, 40)) @if lane.deaths > 0 { " " span.died { "died" } } }
                            td.wide {
                                (chart::strip(&lane.busy, from, to))
                                span.unseen { (show::duration(lane.busy.values.iter().sum())) " busy" }
                            }
                            td.number { (show::count(lane.items)) }
                            td.number { (show::about(lane.cpu_ms as f64 / 1000.0)) }
                            td.number { (show::count(lane.failures)) }
                        }
                    }
                }
            }
        }
    }
}

/// What failed first, by its index in the input.
fn failures(info: &RunInfo, series: &Series, failures: &[Failure]) -> Markup {
    html! {
        @if !failures.is_empty() {
            h2 { "Failures" }
            (failure_table(&failures[..failures.len().min(FEW)]))
            p.quiet {
                @if failures.len() > FEW {
                    a href=(format!("runs/{}/failures", info.run)) { "All " (failures.len()) " that are kept" } ". "
                }
                (kept(series, failures))
            }
        }
    }
}

/// Of how many failures the causes are known.
fn kept(series: &Series, failures: &[Failure]) -> String {
    let known = series.failures + series.deaths;
    match failures.len() {
        kept if known > kept as u64 => format!(
            "{} items failed or workers died; the causes of the first {kept} are kept.",
            show::count(known)
        ),
        _ => String::new(),
    }
}

/// What is shown of the causes: a long one that several items have stands there once.
fn causes(failures: &[Failure]) -> Vec<String> {
    const SHORT: usize = 200;
    let mut known: HashMap<&str, u64> = HashMap::new();
    let shown = failures.iter().map(|failure| {
        let Failure { cause, item, .. } = failure;
        if cause.len() > SHORT
            && let Some(first) = known.get(&**cause)
        {
            return format!("{} (the same as item {first}'s)", show::text(cause, SHORT / 2));
        }
        if let Some(item) = item {
            known.entry(cause).or_insert(*item);
        }
        show::text(cause, 1000)
    });
    shown.collect()
}

fn failure_table(failures: &[Failure]) -> Markup {
    const COLUMNS: [(&str, bool); 5] =
        [("Item", true), ("Kind", false), ("Cause", false), ("Worker", false), ("At", false)];
    html! {
        table.cards role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for (name, number) in COLUMNS {
                        th scope="col" role="columnheader" class=[number.then_some("number")] { (name) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for (failure, cause) in failures.iter().zip(causes(failures)) {
                    tr role="row" {
                        td.number role="cell" data-label="Item" {
                            @if let Some(item) = failure.item { b { (item) } } @else { "?" }
                        }
                        td role="cell" data-label="Kind" { (failure.kind) }
                        td.cause role="cell" data-label="Cause" { bdi { (cause) } }
                        td role="cell" data-label="Worker" { (show::text(&failure.worker, 40)) }
                        td role="cell" data-label="At" { (show::moment(failure.at_ms)) }
                    }
                }
            }
        }
    }
}

/// The last lines that the workers have printed.
fn log(page: &LogPage) -> Markup {
    let mut bytes = 0;
    let fits = |line: &&LogLine| {
        bytes += line.text.len().min(LINE) + if line.level.is_some() { 192 } else { 64 };
        bytes <= LOG
    };
    let lines: Vec<&LogLine> = page.lines.iter().rev().take_while(fits).collect();
    let first = lines.last().map_or(1, |line| line.n);
    html! {
        @if !lines.is_empty() {
            h2 { "Log" }
            @if first > 1 { p.quiet { "The last " (lines.len()) " lines; " (show::count(first - 1)) " came before." } }
            // The newest is the first here and the last on the screen: a box that grows upward stays at its end.
            div.lines role="log" aria-live="off" aria-label="What the workers have printed, the newest line first" tabindex="0" {
                @for line in lines {
                    div {
                        span.from { (show::clock(line.at_ms as i64)) " " (show::text(&line.worker, 20)) }
                        @if let (Some(level), Some(target)) = (&line.level, &line.target) {
                            " " span.from { (show::text(level, 5)) " " (show::text(target, 40)) }
                        }
                        " " bdi { (show::text(&line.text, LINE)) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cause_that_several_items_have_stands_there_once() {
        let failure = |item, cause: &str| Failure {
            seq: 1,
            item,
            kind: "serialize".to_owned(),
            cause: cause.to_owned(),
            worker: "worker-1".to_owned(),
            at_ms: 0,
        };
        let long = format!("cannot read an item: {}", "why ".repeat(100));
        let failures = [
            failure(None, &long),
            failure(Some(7), &long),
            failure(Some(8), "no"),
            failure(Some(9), &long),
            failure(Some(10), "no"),
        ];
        let shown = causes(&failures);
        assert_eq!([&*shown[0], &shown[1], &shown[2], &shown[4]], [&*long, &long, "no", "no"]);
        assert!(shown[3].starts_with("cannot read an item: why "), "{}", shown[3]);
        assert!(shown[3].ends_with("… (the same as item 7's)") && shown[3].len() < 200, "{}", shown[3]);
    }

    #[test]
    fn the_rate_of_late_counts_whole_slots_since_the_run_began() {
        let points = |width, first, items: &[u64]| Slots {
            width,
            first,
            values: items.iter().map(|items| Point { items: *items, ..Point::default() }).collect(),
        };
        let near = |rate: f64, wanted: f64| assert!((rate - wanted).abs() < 1e-9, "{rate}");
        near(rate_lately(&points(1, 100, &[10; 60]), 150, 100), 10.0);
        // The second of now has only begun.
        near(rate_lately(&points(1, 100, &[10, 10, 1]), 102, 100), 10.0);
        // Nothing came of late.
        near(rate_lately(&points(1, 100, &[10]), 1000, 100), 0.0);
        near(rate_lately(&points(64, 10, &[640, 640]), 12 * 64, 0), 10.0);
        near(rate_lately(&Slots::default(), 5, 5), 0.0);
    }
}
