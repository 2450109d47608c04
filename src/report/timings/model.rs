//! The figures of one map, as they are written: the JSON itself, and all that the page and the diagnosis go by.
//! Made from the recorder and the map's account at its end.

use std::time::{Duration, UNIX_EPOCH};

use fastmap_backends::mapped_function;
use serde::Serialize;

use crate::report::map_stats::MapStats;
use crate::report::timings::bins::Bins;
use crate::report::timings::lanes::Lane;
use crate::report::timings::record::{Counted, Died, Event, Recorder, Slow};

/// What the map was. The parts of a report that the recorder does not see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map<'a> {
    pub(crate) label: Option<&'a str>,
    pub(crate) function: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) total: Option<u64>,
    pub(crate) microcredits: u64,
}

/// The report. All times are in seconds, those of events since the map began.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Document {
    /// Of this form; raised when a field changes its meaning.
    pub(crate) version: u32,
    pub(crate) diagnosis: Vec<String>,
    pub(crate) label: Option<String>,
    pub(crate) function: String,
    pub(crate) backend: String,
    /// Seconds since 1970.
    pub(crate) date: f64,
    /// From the first `next()` to the end.
    pub(crate) seconds: f64,
    /// The input was read to its end.
    pub(crate) complete: bool,
    pub(crate) items: Items,
    pub(crate) program: Program,
    pub(crate) workers: Workers,
    pub(crate) batches: Batches,
    pub(crate) item_seconds: ItemSeconds,
    pub(crate) credits: f64,
    pub(crate) slowest: Vec<Slow>,
    pub(crate) deaths: Counted<Died>,
    pub(crate) failures: Counted<Event>,
    pub(crate) retries: Counted<Event>,
    /// Where items went, and why.
    pub(crate) decisions: Counted<Event>,
    /// What happened over time, in bins of equal width.
    pub(crate) over_time: Bins,
    /// One for each worker, in the order of their first answers.
    pub(crate) lanes: Vec<Lane>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Items {
    /// Where the input told.
    pub(crate) expected: Option<u64>,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    pub(crate) from_checkpoint: u64,
    /// By the calling thread.
    pub(crate) here: u64,
    /// By workers.
    pub(crate) answered: u64,
}

/// How the program that maps spent the time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Program {
    /// In the input iterator, and encoding what it gave.
    pub(crate) input: f64,
    /// Waiting for workers.
    pub(crate) waiting: f64,
    /// With everything else: using the results, decoding them, and sending.
    pub(crate) using: f64,
    /// Running items itself (the option `inline`).
    pub(crate) running: f64,
    pub(crate) first_answer: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Workers {
    /// Most that shared the work.
    pub(crate) most: usize,
    pub(crate) cores: usize,
    /// Seconds in which they ran items of this map, on the clock and of the CPU.
    pub(crate) busy: f64,
    pub(crate) cpu: f64,
    /// The share of the time of all of them in which they did not.
    pub(crate) idle: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Batches {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Batches that were joined in a lane lie within so many seconds; 0: none were.
    pub(crate) joined_within: f64,
}

/// Where only the time of a batch is known, each of its items counts with the mean.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ItemSeconds {
    pub(crate) median: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) slowest: f64,
    /// Items that took at least ten times the median.
    pub(crate) ten_times: u64,
    /// Seconds from, seconds to, items.
    pub(crate) histogram: Vec<(f64, f64, u64)>,
}

impl Document {
    pub(crate) fn new(recorder: Recorder, map: &Map<'_>, account: &MapStats) -> Self {
        let seconds = account.elapsed.as_secs_f64();
        let running =
            recorder.lanes.list.iter().filter(|lane| lane.is_caller()).map(|lane| lane.busy).sum::<f64>();
        let program = Program {
            input: recorder.input.as_secs_f64(),
            waiting: account.waited.as_secs_f64(),
            using: (account.elapsed.saturating_sub(account.waited).saturating_sub(recorder.input))
                .saturating_sub(Duration::from_secs_f64(running))
                .as_secs_f64(),
            running,
            first_answer: recorder.first_answer,
        };
        let (busy, most) = (account.wall.as_secs_f64(), recorder.workers);
        let workers = Workers {
            most,
            cores: account.cores,
            busy,
            cpu: account.cpu.as_secs_f64(),
            idle: (1.0 - busy / (most as f64 * seconds).max(1e-9)).clamp(0.0, 1.0),
        };
        let median = recorder.item_times.quantile(0.5);
        let item_seconds = ItemSeconds {
            median,
            p90: recorder.item_times.quantile(0.9),
            p99: recorder.item_times.quantile(0.99),
            slowest: recorder.slowest.first().map_or(0.0, |slow| slow.seconds / f64::from(slow.among)),
            ten_times: recorder.item_times.above(10.0 * median),
            histogram: recorder.item_times.buckets(),
        };
        let mut document = Document {
            version: 1,
            diagnosis: Vec::new(),
            label: map.label.map(str::to_owned),
            function: mapped_function(map.function).to_owned(),
            backend: map.backend.to_owned(),
            date: recorder.date.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            seconds,
            complete: account.complete,
            items: Items {
                expected: map.total,
                delivered: account.delivered,
                failed: account.failed,
                from_checkpoint: account.restored,
                here: account.inline_items,
                answered: account.answered,
            },
            program,
            workers,
            batches: Batches {
                sent: recorder.sent,
                answered: recorder.answered,
                joined_within: recorder.lanes.grain,
            },
            item_seconds,
            credits: map.microcredits as f64 / 1e6,
            slowest: recorder.slowest,
            deaths: recorder.deaths,
            failures: recorder.failures,
            retries: recorder.retries,
            decisions: recorder.decisions,
            over_time: recorder.bins,
            lanes: recorder.lanes.list,
        };
        document.round();
        document
    }

    /// To microseconds: what stands behind them is noise and makes the file half as large again.
    fn round(&mut self) {
        let round = |seconds: &mut f64| *seconds = (*seconds * 1e6).round() / 1e6;
        for bin in &mut self.over_time.bins {
            [&mut bin.input, &mut bin.waiting, &mut bin.busy].into_iter().for_each(round);
        }
        for span in self.lanes.iter_mut().flat_map(|lane| &mut lane.spans) {
            [&mut span.from, &mut span.to, &mut span.busy].into_iter().for_each(round);
        }
    }

    /// As JSON, in one line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and text can be written")
    }
}
