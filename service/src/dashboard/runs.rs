//! The list of an account's runs: by state, by a search, page by page. It asks for itself again while somebody looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::{RunInfo, RunState};
use fastmap_backends::mapped_function;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::cookies::by_script;
use super::page::{Sorry, frame};
use super::show;
use super::visitor::Visitor;
use crate::app::Gateway;
use crate::clock::now_ms;
use crate::store::{Filter, Run, Step};

/// Runs on a page.
const PAGE: u32 = 50;
/// A longer search is cut.
const SEARCH: usize = 100;

/// What is asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Wish {
    #[serde(skip_serializing_if = "String::is_empty")]
    q: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

const STATES: [RunState; 5] =
    [RunState::Open, RunState::Done, RunState::Cancelled, RunState::Expired, RunState::Failed];

impl Wish {
    fn address(&self) -> String {
        match serde_urlencoded::to_string(self) {
            Ok(query) if !query.is_empty() => format!("runs?{query}"),
            _ => "runs".to_owned(),
        }
    }
}

pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Visitor(visit): Visitor,
    headers: HeaderMap,
    Query(mut wish): Query<Wish>,
) -> Result<Response, Sorry> {
    wish.q = wish.q.trim().chars().take(SEARCH).collect();
    let state = STATES.into_iter().find(|state| state.as_str() == wish.state);
    let from = match (&wish.before, &wish.after) {
        (Some(run), _) => Step::Before(run.as_str()),
        (None, Some(run)) => Step::After(run.as_str()),
        (None, None) => Step::Newest,
    };
    let search = (!wish.q.is_empty()).then_some(wish.q.as_str());
    let filter = Filter { account: visit.account, state, search, from: from.clone(), most: PAGE };
    let (runs, more) = gateway.store.find_runs(&filter).await?;
    let (newer, older) = match from {
        Step::Newest => (false, more),
        Step::Before(_) => (true, more),
        Step::After(_) => (more, true),
    };
    let table = table(&wish, &runs, newer, older);
    if by_script(&headers) {
        return Ok(table.into_response());
    }
    let counts = gateway.store.count_runs(visit.account).await?;
    let content = html! {
        h1 { "Runs" }
        (choice(&wish, state, &counts))
        (table)
    };
    Ok(frame(Some(&visit), "Runs", "Runs", &content).into_response())
}

/// States to choose from, and the search.
fn choice(wish: &Wish, state: Option<RunState>, counts: &BTreeMap<String, u64>) -> Markup {
    let all: u64 = counts.values().sum();
    let address =
        |state: &str| Wish { q: wish.q.clone(), state: state.to_owned(), ..Wish::default() }.address();
    html! {
        div.choice {
            nav aria-label="State" {
                a href=(address("")) aria-current=[state.is_none().then_some("page")] { "all " span.count { (show::count(all)) } }
                @for known in STATES.map(RunState::as_str) {
                    a href=(address(known)) aria-current=[(state.map(RunState::as_str) == Some(known)).then_some("page")] {
                        (known) " " span.count { (show::count(counts.get(known).copied().unwrap_or(0))) }
                    }
                }
            }
            form role="search" method="get" action="runs" {
                @if let Some(state) = state { input type="hidden" name="state" value=(state.as_str()); }
                input type="search" name="q" value=(wish.q) aria-label="Label, function or name"
                    placeholder="label, function, name" maxlength=(SEARCH);
                button type="submit" { "Search" }
            }
        }
    }
}

/// The runs, and the ways to others. Asks for itself: often while one of them is open.
fn table(wish: &Wish, runs: &[Run], newer: bool, older: bool) -> Markup {
    let open = runs.iter().any(|run| run.info.state == RunState::Open);
    let step = |before: Option<&Run>, after: Option<&Run>| {
        let name = |run: Option<&Run>| run.map(|run| run.info.run.clone());
        Wish { before: name(before), after: name(after), ..wish.clone() }.address()
    };
    html! {
        div #runs hx-get=(wish.address()) hx-trigger=(if open { "every 2s" } else { "every 10s" }) hx-swap="outerHTML" {
            @if runs.is_empty() {
                p.empty {
                    @if wish.q.is_empty() && wish.state.is_empty() { "No runs yet. A map in cloud mode opens one." }
                    @else { "No such runs." }
                }
            } @else {
                table.cards role="table" {
                    thead role="rowgroup" {
                        tr role="row" {
                            @for (name, number) in [("Label", false), ("State", false), ("Items", true), ("Batches", true),
                                ("vCPU s", true), ("Credits", true), ("Started", false), ("Duration", true)] {
                                th scope="col" role="columnheader" class=[number.then_some("number")] { (name) }
                            }
                        }
                    }
                    tbody role="rowgroup" { @for run in runs { (row(&run.info)) } }
                }
            }
            @if newer || older {
                nav.pages aria-label="Pages" {
                    @if newer { a href=(step(None, runs.first())) rel="prev" { "← Newer" } }
                    @if older { a href=(step(runs.last(), None)) rel="next" { "Older →" } }
                }
            }
        }
    }
}

fn row(run: &RunInfo) -> Markup {
    html! {
        tr role="row" {
            td.name role="cell" {
                a #(format!("run-{}", run.run)) href=(format!("runs/{}", run.run)) { bdi { (title(run, 80)) } }
                code.function { (show::path(mapped_function(&run.function), 60)) }
            }
            td role="cell" data-label="State" { (badge(run.state)) }
            td.number role="cell" data-label="Items" {
                span { (show::count(run.items_answered)) @if let Some(items) = run.items { " / " (show::count(items)) } }
                @if run.state == RunState::Open && let Some(items) = run.items { (bar(run.items_answered, items)) }
            }
            td.number role="cell" data-label="Batches" { (show::count(run.batches)) }
            td.number role="cell" data-label="vCPU s" { (show::cpu_seconds(run.cpu_ns)) }
            td.number role="cell" data-label="Credits" { (show::credits(run.spent)) }
            td role="cell" data-label="Started" { (show::moment(run.opened_ms as i64)) }
            td.number role="cell" data-label="Duration" { (show::duration(lasted(run))) }
        }
    }
}

/// What a run is called.
pub(super) fn title(run: &RunInfo, most: usize) -> String {
    match run.label.as_deref().map(str::trim) {
        Some(label) if !label.is_empty() => show::text(label, most),
        _ => format!("run {}", &run.run[..run.run.len().min(8)]),
    }
}

/// A run's state, in words and by its colour.
pub(super) fn badge(state: RunState) -> Markup {
    html! { span class=(format!("badge {}", state.as_str())) { (state.as_str()) } }
}

/// How far it is.
pub(super) fn bar(done: u64, of: u64) -> Markup {
    html! { progress value=(done.min(of)) max=(of.max(1)) aria-label="items answered" {} }
}

/// Milliseconds from its begin to its end, or to now.
pub(super) fn lasted(run: &RunInfo) -> u64 {
    run.ended_ms.unwrap_or(now_ms().unsigned_abs()).saturating_sub(run.opened_ms)
}
