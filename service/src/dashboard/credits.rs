//! Page of credits: the balance, its course, and the ledger.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::page::{Sorry, frame};
use super::visitor::Visitor;
use super::{chart, show};
use crate::app::Gateway;
use crate::pricing;
use crate::store::Entry;

/// Entries on a page.
const PAGE: u32 = 50;
/// Entries that the chart is drawn from.
const POINTS: u32 = 160;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    before: Option<i64>,
    /// `other`: without charges.
    kind: String,
}

pub(super) async fn show(
    State(gateway): State<Arc<Gateway>>,
    Visitor(visit): Visitor,
    Query(wish): Query<Wish>,
) -> Result<Response, Sorry> {
    let charges = wish.kind != "other";
    let page = gateway.store.ledger_page(visit.account, wish.before, charges, PAGE).await?;
    let history = gateway.store.balance_history(visit.account, POINTS).await?;
    let prices = gateway.config.prices;
    let kind = if charges { "" } else { "&kind=other" };
    let content = html! {
        h1 { "Credits" }
        dl.figures {
            div { dt { "Balance" } dd { (pricing::show(visit.balance)) } }
            div { dt { "Reserved of it" } dd { (pricing::show(visit.held)) } }
            div { dt { "Price: CPU hour" } dd { (pricing::show(prices.cpu_hour)) } }
            div { dt { "Price: GB of results" } dd { (pricing::show(prices.result_gb)) } }
        }
        (chart::balance(&history))
        h2 { "Ledger" }
        div.choice {
            nav aria-label="Kinds" {
                a href="credits" aria-current=[charges.then_some("page")] { "all" }
                a href="credits?kind=other" aria-current=[(!charges).then_some("page")] { "grants and adjustments" }
            }
        }
        @if page.entries.is_empty() { p.empty { "No entries." } } @else { (table(&page.entries)) }
        nav.pages aria-label="Pages" {
            @if wish.before.is_some() { a href=(format!("credits?{}", kind.trim_start_matches('&'))) { "← Newest" } }
            @if page.more && let Some(last) = page.entries.last() {
                a href=(format!("credits?before={}{kind}", last.id)) rel="next" { "Older →" }
            }
        }
    };
    Ok(frame(Some(&visit), "Credits", "Credits", &content).into_response())
}

fn table(entries: &[Entry]) -> Markup {
    html! {
        table.cards role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for (name, number) in [("At", false), ("Kind", false), ("Amount", true), ("Balance", true), ("For", false)] {
                        th scope="col" role="columnheader" class=[number.then_some("number")] { (name) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for entry in entries {
                    tr role="row" {
                        td role="cell" data-label="At" { (show::moment(entry.created_ms)) }
                        td role="cell" data-label="Kind" { (entry.kind) }
                        td.number role="cell" data-label="Amount" {
                            @if entry.amount > 0 { "+" } (pricing::show(entry.amount))
                        }
                        td.number role="cell" data-label="Balance" { (pricing::show(entry.balance)) }
                        td role="cell" data-label="For" {
                            span {
                                @if let Some(run) = &entry.run {
                                    a href=(format!("runs/{run}")) { "run " (&run[..run.len().min(8)]) }
                                    @if let Some(seq) = entry.seq { " batch " (seq) }
                                }
                                @if let Some(note) = &entry.note { bdi { (show::text(note, 200)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
