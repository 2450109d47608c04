//! A run's page, alive: server-sent events, each a part of the page as HTML. Parts are made anew when something happens in
//! the run, at most once a second, and sent if they are other than last time.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::RunState;
use futures_util::stream;
use maud::html;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::page::Sorry;
use super::run::Known;
use super::state::Watchers;
use super::visitor::{LASTS, Visitor};
use crate::api::events::UNBUFFERED;
use crate::app::Gateway;
use crate::app::limits::{QuotaExceeded, SlotPermit};
use crate::run_log::{Event, RunLogs};
use crate::store::Visit;

/// Parts are made no more often.
const PACE: Duration = Duration::from_secs(1);
/// They are made anew after this though nothing is heard: clocks go on, and the event may be another gateway's.
const SILENCE: Duration = Duration::from_secs(2);

pub(super) async fn events(
    State(gateway): State<Arc<Gateway>>,
    State(watchers): State<Arc<Watchers>>,
    Visitor(visit): Visitor,
    Path(run): Path<String>,
) -> Result<Response, Sorry> {
    let found = gateway.store.run(Some(visit.account), &run).await?.ok_or_else(Sorry::not_found)?;
    let watcher = watchers.0.admit(visit.account).map_err(|full| {
        let words = match full {
            QuotaExceeded::OfOne => "Too many pages of this account are open at once.",
            QuotaExceeded::All => "Too many pages are open at once.",
        };
        Sorry::new(StatusCode::TOO_MANY_REQUESTS, words)
    })?;
    // Nothing is kept for who watches a run that is over.
    let open = found.info.state == RunState::Open;
    let events = if open { gateway.events.watch(&run) } else { RunLogs::default().watch(&run) };
    let page = Page {
        gateway,
        visit,
        run,
        events,
        sent: HashMap::new(),
        queue: VecDeque::new(),
        made: None,
        over: false,
        _watcher: watcher,
    };
    let parts = stream::unfold(page, |mut page| async move {
        let part = page.next().await?;
        Some((Ok::<_, Infallible>(part), page))
    });
    Ok(([UNBUFFERED], Sse::new(parts).keep_alive(KeepAlive::default())).into_response())
}

struct Page {
    gateway: Arc<Gateway>,
    visit: Visit,
    run: String,
    events: Receiver<Event>,
    /// What the browser has.
    sent: HashMap<&'static str, String>,
    queue: VecDeque<Sent>,
    made: Option<Instant>,
    over: bool,
    _watcher: SlotPermit,
}

impl Page {
    /// The next part to be sent; `None` at the end.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(part) = self.queue.pop_front() {
                return Some(part);
            }
            if self.over {
                return None;
            }
            let gateway = Arc::clone(&self.gateway);
            tokio::select! {
                () = self.wait() => {}
                () = gateway.stopping.notified() => return None,
            }
            self.made = Some(Instant::now());
            self.make().await;
        }
    }

    /// Waits until the page should be made anew.
    async fn wait(&mut self) {
        let Some(made) = self.made else { return };
        let next = self.events.recv();
        if let Ok(Err(RecvError::Closed)) = timeout(SILENCE, next).await {
            // No more events come here: what there is to see, another gateway has written.
            sleep(SILENCE).await;
        }
        sleep_until(made + PACE).await;
        // All that has come meanwhile is seen in one go.
        while self.events.try_recv().is_ok() {}
    }

    async fn make(&mut self) {
        // A session that has ended sees no more, nor one whose token was revoked.
        let store = &self.gateway.store;
        match store.visit(&self.visit.session, LASTS, false).await {
            Ok(Some(visit)) => self.visit = visit,
            Ok(None) => {
                let words =
                    html! { p role="alert" { "Signed out. " a href="runs" { "Sign in" } " to see more." } };
                self.queue.push_back(Sent::default().event("state").data(words.0));
                return self.close();
            }
            Err(_) => return,
        }
        let Ok(known) = Known::of(&self.gateway, self.visit.account, &self.run).await else { return };
        for (name, part) in known.parts(&self.visit) {
            // Line ends would be other ones behind the way, and no page needs them.
            let text = part.0.replace(['\r', '\n'], " ");
            if self.sent.get(name) != Some(&text) {
                self.queue.push_back(Sent::default().event(name).data(&text));
                self.sent.insert(name, text);
            }
        }
        if known.run.info.state != RunState::Open {
            self.close();
        }
    }

    /// The browser need not come back.
    fn close(&mut self) {
        self.over = true;
        self.queue.push_back(Sent::default().event("closed").data("closed"));
    }
}
