//! The operator's page: which agents there are, and what they have in hand. Of accounts it shows nothing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::cookies::by_script;
use super::page::{Sorry, frame};
use super::show;
use super::visitor::Visitor;
use crate::agent_registry::AgentState;
use crate::app::Gateway;
use crate::clock::now_ms;

pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Visitor(visit): Visitor,
    headers: HeaderMap,
) -> Result<Response, Sorry> {
    if !visit.operator {
        return Err(Sorry::not_found());
    }
    let (agents, under_way) = (gateway.roster.agents(), gateway.under_way() as u64);
    let open = gateway.store.open_runs().await?;
    let now = html! {
        div #agents hx-get="agents" hx-trigger="every 3s" hx-swap="outerHTML" {
            dl.figures {
                div { dt { "Agents" } dd { (agents.len()) } }
                div { dt { "Open runs" } dd { (show::count(open)) } }
                div { dt { "Batches now" } dd { (show::count(under_way)) } }
            }
            @if agents.is_empty() {
                p.empty { "No agent has joined this service: nothing is worked on." }
            } @else { (table(&agents)) }
        }
    };
    if by_script(&headers) {
        return Ok(now.into_response());
    }
    let content = html! {
        h1 { "Agents" }
        (now)
    };
    Ok(frame(Some(&visit), "Agents", "Agents", &content).into_response())
}

fn table(agents: &[AgentState]) -> Markup {
    let now = now_ms();
    let since = |ms: i64| show::duration((now - ms).max(0).unsigned_abs());
    html! {
        table.cards role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for (name, number) in [("Agent", false), ("Machine", false), ("Version", false), ("Workers of a run", true), ("Runs", true),
                        ("In hand", true), ("Answered", true), ("Given back", true), ("Works since", false), ("Last message", false)] {
                        th scope="col" role="columnheader" class=[number.then_some("number")] { (name) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for agent in agents {
                    tr role="row" {
                        td.name role="cell" data-label="Agent" { (show::text(&agent.name, 80)) }
                        td role="cell" data-label="Machine" { (show::text(&agent.machine, 160)) }
                        td role="cell" data-label="Version" { (show::text(&agent.version, 20)) }
                        td.number role="cell" data-label="Workers of a run" { (agent.workers) }
                        td.number role="cell" data-label="Runs" { (show::count(agent.pools)) }
                        td.number role="cell" data-label="In hand" { (show::count(agent.in_hand)) }
                        td.number role="cell" data-label="Answered" { (show::count(agent.answered)) }
                        td.number role="cell" data-label="Given back" { (show::count(agent.given_back)) }
                        td role="cell" data-label="Works since" { (show::moment(agent.since_ms)) }
                        td role="cell" data-label="Last message" { (since(agent.heard_ms)) " ago" }
                    }
                }
            }
        }
    }
}
