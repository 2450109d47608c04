//! Events of a run: the lines that its workers print, and a stream of events. The stream's length is not known when its
//! head is sent, so that each event is signed for itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::{Extension, Json};
use fastmap_backends::cloud::{EventHead, LogPage, Problem, ProblemCode, RunState, digest};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, Interval, interval_at, sleep};
use utoipa::IntoParams;

use crate::app::caller::{Caller, SignsItself};
use crate::app::limits::{QuotaExceeded, SlotPermit};
use crate::app::{Gateway, STREAMS, STREAMS_OF_ONE};
use crate::problem::{Problems, Refusal, Reply};
use crate::run_log::{Event, RunLogs};

/// Lines on a page.
const PAGE: usize = 1000;
/// A stream whose token is revoked or expires ends after this at the latest, and what the gateway trusts a
/// token for.
const LOOK: Duration = Duration::from_secs(2);
/// A stream with nothing to say says so, lest somebody in between takes it for dead.
const SILENCE: Duration = Duration::from_secs(10);

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct Behind {
    /// Only lines with a higher number.
    #[serde(default)]
    after: u64,
}

/// What the run's workers have printed.
#[utoipa::path(get, path = "/runs/{run}/logs", tag = "runs", params(("run" = String, Path), Behind),
    responses((status = 200, body = LogPage), Problems))]
pub(crate) async fn logs(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
    Query(behind): Query<Behind>,
) -> Reply<LogPage> {
    gateway.run(caller.account, &run).await?;
    Ok(Json(gateway.events.page(&run, behind.after, PAGE)))
}

/// The header of event streams by which nginx hands each event on at once. Otherwise it collects them until the
/// stream ends.
pub(crate) const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// What happens in the run from now on, as server-sent events.
#[utoipa::path(get, path = "/runs/{run}/events", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, description = "events, each signed", body = String, content_type = "text/event-stream"),
              Problems))]
pub(crate) async fn events(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Result<Response, Refusal> {
    let place = gateway.streams.admit(caller.account).map_err(|full| {
        let detail = match full {
            QuotaExceeded::OfOne => format!("the account has {STREAMS_OF_ONE} event streams open"),
            QuotaExceeded::All => format!("{STREAMS} event streams of all accounts are open"),
        };
        Problem::new(ProblemCode::TooManyRequests, detail).retry_after(5)
    })?;
    // Watched first and looked at then: what happens in between comes twice, not never. Nothing is kept for who watches
    // a run that is over.
    let open = gateway.run(caller.account, &run).await?.info.state == RunState::Open;
    let events = if open { gateway.events.watch(&run) } else { RunLogs::default().watch(&run) };
    let state = gateway.run(caller.account, &run).await?.info.state;
    let look = interval_at(Instant::now() + LOOK, LOOK);
    let telling =
        EventStream { gateway, caller, run, events, state, number: 0, over: false, look, _place: place };
    let events = stream::unfold(telling, |mut telling| async move {
        let text = telling.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), telling))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(UNBUFFERED.0, UNBUFFERED.1);
    response.extensions_mut().insert(SignsItself);
    Ok(response)
}

struct EventStream {
    gateway: Arc<Gateway>,
    caller: Caller,
    run: String,
    events: Receiver<Event>,
    state: RunState,
    number: u64,
    over: bool,
    look: Interval,
    _place: SlotPermit,
}

impl EventStream {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        // The first event says where the run stands.
        if self.number == 0 {
            self.over = self.state != RunState::Open;
            return Some(self.event("state", &json!({ "state": self.state })));
        }
        let gateway = Arc::clone(&self.gateway);
        let silence = sleep(SILENCE);
        tokio::pin!(silence);
        loop {
            let event = tokio::select! {
                // First: a run that says something all the time is looked at, too.
                biased;
                _ = self.look.tick() => match gateway.is_good(&self.caller).await {
                    true => continue,
                    false => return None,
                },
                event = self.events.recv() => event,
                () = gateway.stopping.notified() => return None,
                () = &mut silence => return Some(": nothing new\n\n".to_owned()),
            };
            return match event {
                Ok(Event::Log(line)) => Some(self.event("log", &json!(line))),
                Ok(Event::Batch { seq, items, charge }) => {
                    Some(self.event("batch", &json!({ "seq": seq, "items": items, "charge": charge })))
                }
                Ok(Event::Ended(state)) => {
                    self.over = true;
                    Some(self.event("state", &json!({ "state": state })))
                }
                Err(RecvError::Lagged(missed)) => Some(self.event("missed", &json!({ "events": missed }))),
                Err(RecvError::Closed) => None,
            };
        }
    }

    fn event(&mut self, name: &str, data: &Value) -> String {
        self.number += 1;
        let data = data.to_string();
        let digest = digest(data.as_bytes());
        let head =
            EventHead { nonce: &self.caller.nonce, run: &self.run, id: self.number, name, digest: &digest };
        let signature = self.caller.key.sign_event(&head);
        format!("id: {}\nevent: {name}\ndata: {data}\ndata: {signature}\n\n", self.number)
    }
}
