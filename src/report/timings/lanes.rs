//! What each worker did over time, in bounded memory: its lane, with a span for each batch.
//!
//! When there are too many spans, neighbours are joined that lie within a grain of time, which grows; a span that is longer
//! than that (a straggler) stays as it is.

use std::collections::HashMap;

use fastmap_backends::{BatchId, Origin};
use serde::Serialize;

/// Spans that are kept, of all lanes together.
pub(super) const SPANS: usize = 4096;
/// Workers that have a lane of their own; those that come later share one.
pub(super) const LANES: usize = 200;

/// Some batches of one worker, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Span {
    /// Seconds since the map began.
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Seconds between them in which items ran.
    pub(crate) busy: f64,
    /// Index of the first item.
    pub(crate) first: u64,
    pub(crate) items: u64,
    /// 0 where it is a further part of the batch before.
    pub(crate) batches: u64,
}

/// One worker.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lane {
    pub(crate) worker: String,
    pub(crate) cloud: bool,
    /// When it died, in seconds since the map began.
    pub(crate) died: Option<f64>,
    pub(crate) busy: f64,
    pub(crate) items: u64,
    pub(crate) batches: u64,
    pub(crate) spans: Vec<Span>,
    /// The batch that it answered last: further parts of it are no further batches.
    #[serde(skip)]
    last: Option<BatchId>,
}

impl Lane {
    /// Whether this is the thread that maps.
    pub(super) fn is_caller(&self) -> bool {
        self.worker == CALLER
    }
}

/// The lanes of a map.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// In the order of the workers' first answers.
    pub(super) list: Vec<Lane>,
    pub(super) by_worker: HashMap<String, usize>,
    pub(super) spans: usize,
    /// Seconds within which neighbours are joined.
    pub(super) grain: f64,
}

impl Lanes {
    /// Adds a span of a worker's batch to its lane.
    pub(super) fn add(&mut self, worker: &str, place: Origin, mut span: Span, batch: Option<BatchId>) {
        let lane = self.lane(worker, place);
        let lane = &mut self.list[lane];
        lane.busy += span.busy;
        lane.items += span.items;
        span.batches = u64::from(batch.is_none() || lane.last != batch);
        lane.batches += span.batches;
        lane.last = batch;
        self.spans += usize::from(put(&mut lane.spans, span, self.grain));
        while self.spans > SPANS {
            self.grain = (self.grain * 2.0).max(span.to / SPANS as f64);
            self.spans = self.list.iter_mut().map(|lane| join(&mut lane.spans, self.grain)).sum();
        }
    }

    /// Marks a worker's lane as ended at that second. One that has answered nothing yet is taken to be at `place`.
    pub(super) fn died(&mut self, worker: &str, place: Origin, at: f64) {
        let lane = self.lane(worker, place);
        self.list[lane].died.get_or_insert(at);
    }

    fn lane(&mut self, worker: &str, place: Origin) -> usize {
        if let Some(lane) = self.by_worker.get(worker) {
            return *lane;
        }
        let full = self.by_worker.len() >= LANES;
        let name = if full { OTHERS } else { worker };
        if full && let Some(lane) = self.by_worker.get(OTHERS) {
            return *lane;
        }
        let lane = Lane {
            worker: name.to_owned(),
            cloud: place == Origin::Cloud,
            died: None,
            busy: 0.0,
            items: 0,
            batches: 0,
            spans: Vec::new(),
            last: None,
        };
        self.list.push(lane);
        self.by_worker.insert(name.to_owned(), self.list.len() - 1);
        self.list.len() - 1
    }
}

/// The lane of the calling thread, and the one that late workers share.
pub(super) const CALLER: &str = "calling thread";
const OTHERS: &str = "further workers";

/// Adds a span behind the others, or to the last one where both lie within a grain; `true`: as one of its own.
fn put(spans: &mut Vec<Span>, span: Span, grain: f64) -> bool {
    match spans.last_mut() {
        Some(last) if span.to - last.from <= grain => {
            last.to = last.to.max(span.to);
            last.busy += span.busy;
            last.first = last.first.min(span.first);
            last.items += span.items;
            last.batches += span.batches;
            false
        }
        _ => {
            spans.push(span);
            true
        }
    }
}

/// Joins what lies within a grain; how many there are then.
fn join(spans: &mut Vec<Span>, grain: f64) -> usize {
    let all = std::mem::take(spans);
    all.into_iter().filter(|span| put(spans, *span, grain)).count()
}
