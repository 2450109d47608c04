//! Events of one map, recorded in bounded memory: written by the report, read by `model` when the map is over.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use fastmap_backends::{Batch, BatchId, Origin, Results, Running, WorkerExit, WorkerLoss};
use serde::Serialize;

use super::bins::{Bin, Bins, Histogram};
use super::lanes::{CALLER, Lanes, Span};

/// Events of each kind that are kept in words; all are counted.
const EVENTS: usize = 100;
/// Slowest items that are kept.
const SLOWEST: usize = 12;
/// Characters of a death or a failure.
const WORDS: usize = 600;

/// Things of which there may be any number: the first ones, and how many there were.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Counted<T> {
    pub(crate) total: u64,
    pub(crate) first: Vec<T>,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Counted { total: 0, first: Vec::new() }
    }
}

impl<T> Counted<T> {
    fn add(&mut self, make: impl FnOnce() -> T) {
        self.total += 1;
        if self.first.len() < EVENTS {
            self.first.push(make());
        }
    }
}

/// An item, or a batch whose items nobody told apart, that took long.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Slow {
    /// Index of the item, or of the first one of the batch.
    pub(crate) item: u64,
    /// 1 where it is that item alone.
    pub(crate) among: u32,
    pub(crate) seconds: f64,
    /// When it ended.
    pub(crate) at: f64,
    pub(crate) worker: String,
}

/// A worker that was lost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Died {
    pub(crate) at: f64,
    pub(crate) worker: String,
    /// The item that it ran, if that is known.
    pub(crate) item: Option<u64>,
    pub(crate) cause: String,
}

/// Something else that happened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) at: f64,
    pub(crate) item: u64,
    pub(crate) what: String,
}

/// One map, as far as it has come.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(super) begun: Instant,
    pub(super) date: SystemTime,
    pub(super) bins: Bins,
    pub(super) item_times: Histogram,
    pub(super) lanes: Lanes,
    pub(super) slowest: Vec<Slow>,
    pub(super) deaths: Counted<Died>,
    pub(super) failures: Counted<Event>,
    pub(super) retries: Counted<Event>,
    pub(super) decisions: Counted<Event>,
    pub(super) sent: u64,
    /// Batches that were answered, counted when the first answer of each comes.
    pub(super) answered: u64,
    /// Those of them that are not answered to their end: at most as many as are in flight.
    partly: HashSet<BatchId>,
    pub(super) input: Duration,
    pub(super) first_answer: Option<f64>,
    /// Most workers that shared the work.
    pub(super) workers: usize,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Recorder {
            begun: Instant::now(),
            date: SystemTime::now(),
            bins: Bins::default(),
            item_times: Histogram::default(),
            lanes: Lanes::default(),
            slowest: Vec::new(),
            deaths: Counted::default(),
            failures: Counted::default(),
            retries: Counted::default(),
            decisions: Counted::default(),
            sent: 0,
            answered: 0,
            partly: HashSet::new(),
            input: Duration::ZERO,
            first_answer: None,
            workers: 0,
        }
    }

    /// Seconds since the map began.
    pub(super) fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub(crate) fn workers(&mut self, workers: usize) {
        self.workers = self.workers.max(workers);
    }

    pub(crate) fn sent(&mut self, batch: &Batch) {
        self.sent += 1;
        if !self.partly.contains(&batch.id()) {
            let (items, now) = (batch.items(), self.now());
            self.bins.add(now, &Bin { batches: 1, fewest: items, most: items, ..Bin::default() });
        }
        if batch.attempt() > 0 {
            let (at, item) = (self.now(), batch.first());
            self.retries.add(|| Event { at, item, what: format!("try {}, alone", batch.attempt() + 1) });
        }
    }

    /// The input iterator was asked for so long.
    pub(crate) fn pulled(&mut self, time: Duration) {
        self.input += time;
        let now = self.now();
        self.bins.spread(now - time.as_secs_f64(), now, |bin| &mut bin.input);
    }

    /// Workers were waited for, for so long.
    pub(crate) fn waited(&mut self, time: Duration) {
        let now = self.now();
        self.bins.spread(now - time.as_secs_f64(), now, |bin| &mut bin.waiting);
    }

    /// Items of a batch were answered: all of them, or `more` of it are still out.
    pub(crate) fn answered(&mut self, batch: BatchId, more: bool, first: u64, items: u32, results: &Results) {
        let known = match more {
            true => !self.partly.insert(batch),
            false => self.partly.remove(&batch),
        };
        self.answered += u64::from(!known);
        let at = match results.received_at {
            Some(received) => received.saturating_duration_since(self.begun).as_secs_f64(),
            None => self.now(),
        };
        let wall = results.wall.as_secs_f64();
        let slowest = results.slowest.filter(|(offset, time)| *offset < items && *time <= results.wall);
        self.record_item_times(first, items, wall, slowest, at, &results.worker);
        let span =
            Span { from: (at - wall).max(0.0), to: at, busy: wall, first, items: items.into(), batches: 1 };
        self.place(&results.worker, results.place, span, Some(batch));
        for failure in &results.failures {
            let item = first + u64::from(failure.offset);
            self.failures.add(|| Event { at, item, what: cut(&failure.message) });
        }
    }

    /// The calling thread has done items itself.
    pub(crate) fn done_inline(&mut self, first: u64, items: u32, time: Duration) {
        if items == 0 {
            return;
        }
        let (at, wall) = (self.now(), time.as_secs_f64());
        self.record_item_times(first, items, wall, None, at, CALLER);
        let span =
            Span { from: (at - wall).max(0.0), to: at, busy: wall, first, items: items.into(), batches: 1 };
        self.place(CALLER, Origin::Local, span, None);
        self.answered += 1;
        self.bins.add(at, &Bin { batches: 1, fewest: items, most: items, ..Bin::default() });
    }

    fn place(&mut self, worker: &str, place: Origin, span: Span, batch: Option<BatchId>) {
        let (here, cloud) = match place {
            Origin::Local => (span.items, 0),
            Origin::Cloud => (0, span.items),
        };
        self.bins.add(span.to, &Bin { here, cloud, ..Bin::default() });
        self.bins.spread(span.from, span.to, |bin| &mut bin.busy);
        self.lanes.add(worker, place, span, batch);
    }

    /// The times of items.
    fn record_item_times(
        &mut self,
        first: u64,
        items: u32,
        wall: f64,
        slowest: Option<(u32, Duration)>,
        at: f64,
        worker: &str,
    ) {
        if items == 0 {
            return;
        }
        self.first_answer.get_or_insert(at);
        let slow = match slowest {
            Some((offset, time)) => {
                let time = time.as_secs_f64();
                self.item_times.add(time, 1);
                if items > 1 {
                    let others = (wall - time).max(0.0) / f64::from(items - 1);
                    self.item_times.add(others, u64::from(items) - 1);
                }
                (first + u64::from(offset), 1, time)
            }
            None => {
                self.item_times.add(wall / f64::from(items), items.into());
                (first, items, wall)
            }
        };
        let (item, among, seconds) = slow;
        if self.slowest.len() == SLOWEST && self.slowest.last().is_some_and(|last| last.seconds >= seconds) {
            return;
        }
        let place = self.slowest.partition_point(|slower| slower.seconds >= seconds);
        self.slowest.insert(place, Slow { item, among, seconds, at, worker: worker.to_owned() });
        self.slowest.truncate(SLOWEST);
    }

    /// A worker is lost, with what it had. One that has answered nothing yet is taken to be at `place`.
    pub(crate) fn lost(&mut self, batch: &Batch, loss: &WorkerLoss, place: Origin) {
        self.partly.remove(&batch.id());
        let at = self.now();
        let item = match loss.running {
            Running::Item(offset) => Some(batch.first() + u64::from(offset)),
            Running::Unknown if batch.items() == 1 => Some(batch.first()),
            Running::Setup | Running::Unknown => None,
        };
        let WorkerExit { worker, .. } = &loss.death;
        self.lanes.died(worker, place, at);
        self.deaths.add(|| Died { at, worker: worker.clone(), item, cause: cut(&loss.death.to_string()) });
    }

    /// Where the next items go, and why.
    pub(crate) fn decided(&mut self, item: u64, what: &str) {
        let at = self.now();
        self.decisions.add(|| Event { at, item, what: cut(what) });
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{LANES, SPANS};
    use super::*;

    fn results(worker: &str, begun: Instant, at: f64, wall: f64) -> Results {
        Results {
            wall: Duration::from_secs_f64(wall),
            worker: worker.to_owned(),
            received_at: Some(begun + Duration::from_secs_f64(at)),
            ..Results::default()
        }
    }

    /// Five minutes of batches of 1 ms by two workers, with one of 2 s in the middle.
    #[test]
    fn hundreds_of_thousands_of_batches_stay_few_spans_and_the_straggler_one_of_its_own() {
        let mut recorder = Recorder::new();
        let begun = recorder.begun;
        let mut at = [0.0, 0.0005];
        for batch in 0..600_000u64 {
            let worker = (batch % 2) as usize;
            let wall = if batch == 300_000 { 2.0 } else { 0.001 };
            at[worker] += wall;
            let name = ["one", "two"][worker];
            recorder.answered(BatchId(batch), false, batch * 10, 10, &results(name, begun, at[worker], wall));
        }
        assert!(recorder.lanes.spans <= SPANS, "{}", recorder.lanes.spans);
        assert!(recorder.lanes.spans > SPANS / 4, "{}", recorder.lanes.spans);
        let kept: Vec<&Span> = recorder.lanes.list.iter().flat_map(|lane| &lane.spans).collect();
        assert_eq!(kept.iter().map(|span| span.items).sum::<u64>(), 6_000_000);
        assert_eq!(kept.iter().map(|span| span.batches).sum::<u64>(), 600_000);
        let straggler = kept.iter().find(|span| span.first == 3_000_000 && span.batches == 1);
        assert!(straggler.is_some_and(|span| (span.to - span.from - 2.0).abs() < 1e-3), "{straggler:?}");
        assert_eq!((recorder.slowest[0].item, recorder.slowest[0].among), (3_000_000, 10));
        assert!(recorder.slowest.len() == SLOWEST && recorder.slowest[1].seconds < 0.01);
    }

    #[test]
    fn any_number_of_workers_takes_a_bounded_number_of_lanes() {
        let mut recorder = Recorder::new();
        let begun = recorder.begun;
        for worker in 0..10_000u32 {
            let at = f64::from(worker) * 0.01;
            let answer = results(&format!("worker-{worker}"), begun, at, 0.005);
            recorder.answered(BatchId(worker.into()), false, worker.into(), 1, &answer);
        }
        assert_eq!(recorder.lanes.list.len(), LANES + 1);
        assert_eq!(recorder.lanes.by_worker.len(), LANES + 1);
        assert_eq!(recorder.lanes.list.iter().map(|lane| lane.items).sum::<u64>(), 10_000);
        assert!(recorder.lanes.spans <= SPANS);
    }

    #[test]
    fn a_slow_item_among_quick_ones_is_named_alone() {
        let mut recorder = Recorder::new();
        let mut answer = results("one", recorder.begun, 1.0, 1.0);
        answer.slowest = Some((3, Duration::from_millis(900)));
        recorder.answered(BatchId(1), false, 100, 11, &answer);
        let slow = &recorder.slowest[0];
        assert_eq!((slow.item, slow.among), (103, 1));
        assert!((recorder.item_times.quantile(0.5) / 0.01 - 1.0).abs() < 0.1);
        // What can't be so is not believed.
        answer.slowest = Some((30, Duration::from_secs(90)));
        recorder.answered(BatchId(2), false, 200, 11, &answer);
        assert!(recorder.slowest.iter().all(|slow| slow.seconds <= 1.0));
    }

    #[test]
    fn a_batch_that_comes_back_in_parts_from_two_workers_is_one() {
        let mut recorder = Recorder::new();
        let begun = recorder.begun;
        let parts = [("one", 0, 4, true), ("one", 4, 2, true), ("two", 6, 4, false)];
        for (worker, first, items, more) in parts {
            recorder.answered(BatchId(1), more, first, items, &results(worker, begun, 0.01, 0.001));
        }
        recorder.answered(BatchId(2), false, 10, 10, &results("one", begun, 0.02, 0.001));
        assert_eq!(recorder.answered, 2);
        assert_eq!(recorder.lanes.list.iter().map(|lane| lane.batches).collect::<Vec<_>>(), [2, 1]);
        assert!(recorder.partly.is_empty());
    }
}
