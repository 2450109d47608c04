//! Statistics of one map, and the lines that it prints: progress, each batch when loud, one line at its end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastmap_backends::{Batch, BatchId, Origin, Receipt, Results, WorkerLoss, counted, local};

use crate::error::{Error, ErrorKind};
use crate::options::Verbosity;
use crate::report::console::warn;
use crate::report::failures::Failures;
use crate::report::format::{labelled, shown};
use crate::report::map_stats::MapStats;
use crate::report::progress::{Progress, State};
use crate::report::refusals::Refusals;
use crate::report::summary::closing_line;
use crate::report::timings::{Map, Timings};
use crate::settings::cores;
use crate::worker::panics::inside_inline_call;

/// What one map has done so far.
#[derive(Debug)]
pub(crate) struct MapReport {
    verbosity: Verbosity,
    progress_wanted: Option<bool>,
    progress: Progress,
    timings: Timings,
    function: String,
    label: Option<String>,
    backend: String,
    total: Option<u64>,
    begun: Option<Instant>,
    delivered: u64,
    failed: u64,
    /// Items that the calling thread may call for one by one, and how many of them it has not yet.
    granted: u32,
    pub(crate) inline_budget: u32,
    failures: Failures,
    deaths: u64,
    /// What was told of calls that the sandbox refused.
    refusals: Refusals,
    /// Items answered from a checkpoint.
    restored: u64,
    /// Items answered by workers, and the time they took there.
    answered: u64,
    /// Those of them that a service answered.
    cloud: u64,
    spent: Receipt,
    /// What its run says of itself.
    account: Option<String>,
    /// What it would have taken without the service that took part, if one did.
    alone: Option<Duration>,
    /// The error after which it could not go on.
    ended_by: Option<ErrorKind>,
    /// Items answered by the calling thread.
    inline_items: u64,
    wall: Duration,
    cpu: Duration,
    /// Time in which workers were ready to run and had no core; `None` once an answer does not tell.
    queued: Option<Duration>,
    /// Tries of items that failed.
    failed_tries: u64,
    /// Items and results are bytes of a fixed size.
    plain: bool,
    /// Bytes that went to workers and came back.
    bytes: u64,
    /// Time that the map took for its own beginning: encoding the context, starting the workers.
    beginning: Duration,
    /// When the first item that was answered had begun.
    first: Option<Instant>,
    /// Time in which the consumer waited for workers.
    waited: Duration,
    /// Workers that shared the work.
    workers: usize,
}

impl MapReport {
    pub(crate) fn new(verbosity: Verbosity, timings: Option<PathBuf>) -> Self {
        MapReport {
            verbosity,
            progress_wanted: None,
            progress: Progress::default(),
            timings: Timings::at(timings),
            function: String::new(),
            label: None,
            backend: String::new(),
            total: None,
            begun: None,
            delivered: 0,
            failed: 0,
            granted: 0,
            inline_budget: 0,
            failures: Failures::default(),
            deaths: 0,
            refusals: Refusals::default(),
            restored: 0,
            answered: 0,
            cloud: 0,
            spent: Receipt::default(),
            account: None,
            alone: None,
            ended_by: None,
            inline_items: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            queued: Some(Duration::ZERO),
            failed_tries: 0,
            plain: false,
            bytes: 0,
            beginning: Duration::ZERO,
            first: None,
            waited: Duration::ZERO,
            workers: 0,
        }
    }

    pub(crate) fn show_progress(&mut self, show: bool) {
        self.progress_wanted = Some(show);
    }

    pub(crate) fn write_timings(&mut self, path: PathBuf) {
        self.timings = Timings::at(Some(path));
    }

    /// # Errors
    /// If the timings can't be written.
    pub(crate) fn begin(
        &mut self,
        label: Option<&str>,
        function: &str,
        total: Option<u64>,
    ) -> Result<(), Error> {
        if self.begun.is_some() {
            return Ok(());
        }
        if inside_inline_call() || local::inside_worker() {
            // A map for each item of another one would write a line for each, and a file.
            self.verbosity = Verbosity::Quiet;
            self.progress_wanted = Some(false);
            self.timings = Timings::none();
        }
        self.label = label.map(str::to_owned);
        function.clone_into(&mut self.function);
        self.total = total;
        let now = Instant::now();
        self.begun = Some(now);
        if self.progress_wanted.unwrap_or(self.verbosity >= Verbosity::Normal) {
            self.progress.begin(now);
        }
        self.timings.begin()
    }

    /// The map has begun; items and results have a fixed size each (`plain`), or not.
    pub(crate) fn has_begun(&mut self, plain: bool) {
        self.plain = plain;
        self.beginning = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
    }

    /// So many workers share the work.
    pub(crate) fn workers(&mut self, workers: usize) {
        self.workers = workers;
        if let Some(recorder) = self.timings.recorder() {
            recorder.workers(workers);
        }
    }

    /// The input iterator was asked for so long.
    pub(crate) fn pulled(&mut self, time: Duration) {
        if let Some(recorder) = self.timings.recorder() {
            recorder.pulled(time);
        }
    }

    /// What the run has cost so far.
    pub(crate) fn account(&mut self, account: Option<String>, alone: Option<Duration>) {
        (self.account, self.alone) = (account, alone);
    }

    pub(crate) fn ended_by(&mut self, kind: ErrorKind) {
        self.ended_by = Some(kind);
    }

    /// Whether the run has cost anything so far.
    pub(crate) fn has_cost(&self) -> bool {
        self.spent.microcredits > 0
    }

    pub(crate) fn spent(&mut self, receipt: Receipt) {
        self.spent = receipt;
    }

    pub(crate) fn backend(&mut self, name: &str) {
        name.clone_into(&mut self.backend);
    }

    pub(crate) fn sent(&mut self, batch: &Batch) {
        self.bytes += batch.payload().len() as u64;
        if let Some(recorder) = self.timings.recorder() {
            recorder.sent(batch);
        }
        if self.verbosity >= Verbosity::Loud {
            let (first, items, bytes) = (batch.first(), batch.items(), batch.payload().len());
            self.print(&format!(
                "sent items {first}..{} ({}, {})",
                first + u64::from(items),
                counted(u64::from(items), "item"),
                counted(bytes as u64, "byte"),
            ));
        }
    }

    /// Items of a batch were answered; `more` of it are out.
    pub(crate) fn answered(&mut self, batch: BatchId, more: bool, first: u64, items: u32, results: &Results) {
        self.answered += u64::from(items);
        if results.place == Origin::Cloud {
            self.cloud += u64::from(items);
        }
        if let Some(recorder) = self.timings.recorder() {
            recorder.answered(batch, more, first, items, results);
        }
        self.wall += results.wall;
        self.cpu += results.cpu;
        self.queued = self.queued.zip(results.queued).map(|(all, queued)| all.saturating_add(queued));
        self.failed_tries += results.failures.len() as u64;
        self.bytes += results.payload.bytes().len() as u64;
        self.first.get_or_insert_with(|| {
            let received = results.received_at.unwrap_or_else(Instant::now);
            received.checked_sub(results.wall).unwrap_or(received)
        });
        for warning in self.refusals.new_warnings(&results.refused) {
            warn(&labelled(self.label.as_deref(), &warning));
        }
        if self.verbosity >= Verbosity::Loud {
            self.print(&format!(
                "{} answered items {first}..{} in {:.3} ms ({:.3} ms CPU, {} failed, {})",
                results.worker,
                first + u64::from(items),
                results.wall.as_secs_f64() * 1e3,
                results.cpu.as_secs_f64() * 1e3,
                results.failures.len(),
                counted(results.payload.bytes().len() as u64, "byte"),
            ));
        }
    }

    /// Items were answered from a checkpoint.
    pub(crate) fn restored(&mut self, items: u32) {
        self.restored += u64::from(items);
    }

    /// The calling thread has done so many items itself, from `first` on. So many answers of the current segment are read.
    pub(crate) fn done_inline(&mut self, first: u64, items: u32, time: Duration, read: u32) {
        self.inline_items += u64::from(items);
        if let Some(recorder) = self.timings.recorder() {
            recorder.done_inline(first, items, time);
        }
        self.tick(read);
    }

    /// The calling thread may call for so many items one by one. Each takes one off `inline_budget` and counts nothing else:
    /// a second counter in memory is felt where an item is a square root.
    pub(crate) fn set_inline_budget(&mut self, items: u32) {
        (self.granted, self.inline_budget) = (items, items);
    }

    /// Counts those that were called for, and takes the others back.
    pub(crate) fn count_inline(&mut self) -> u32 {
        let called = std::mem::take(&mut self.granted) - std::mem::take(&mut self.inline_budget);
        self.delivered += u64::from(called);
        self.inline_items += u64::from(called);
        called
    }

    /// Items that workers have answered, and the time that it took them.
    pub(crate) fn by_workers(&self) -> (u64, Duration) {
        (self.answered, self.wall)
    }

    /// Whether items were answered by anything but the death of their worker.
    pub(crate) fn has_results(&self) -> bool {
        self.answered + self.inline_items + self.restored > 0
    }

    pub(crate) fn has_deaths(&self) -> bool {
        self.deaths > 0
    }

    /// Where the next items go, in a map that may run in the calling thread.
    pub(crate) fn moves(&mut self, index: u64, place: &str) {
        if let Some(recorder) = self.timings.recorder() {
            recorder.decided(index, &format!("to {place}"));
        }
        if self.verbosity >= Verbosity::Loud {
            self.print(&format!("items from {index} on go to {place}"));
        }
    }

    pub(crate) fn lost(&mut self, batch: &Batch, loss: &WorkerLoss) {
        self.deaths += 1;
        if let Some(recorder) = self.timings.recorder() {
            let place = if self.backend == "cloud" { Origin::Cloud } else { Origin::Local };
            recorder.lost(batch, loss, place);
        }
        if self.verbosity >= Verbosity::Loud {
            self.print(&loss.death.to_string());
        }
    }

    /// A segment was read, so far.
    pub(crate) fn read(&mut self, answers: u32) {
        self.delivered += u64::from(answers);
    }

    /// One of the answers was an error; returns it as the consumer gets it.
    pub(crate) fn failed(&mut self, error: Error) -> Error {
        self.failed += 1;
        self.failures.meet(error)
    }

    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited += time;
        self.timings.look_up();
        if let Some(recorder) = self.timings.recorder() {
            recorder.waited(time);
        }
    }

    fn print(&self, text: &str) {
        print_labelled(self.label.as_deref(), text);
    }

    /// Whether progress is to be told now.
    pub(crate) fn is_due(&self) -> bool {
        self.progress.is_wanted() && self.progress.is_due(Instant::now())
    }

    /// Tells how far the map is, if that is due. So many answers of the current segment are read.
    pub(crate) fn tick(&mut self, read: u32) {
        let Some(begun) = self.begun else { return };
        if !self.progress.is_wanted() {
            return;
        }
        let now = Instant::now();
        if !self.progress.is_due(now) {
            return;
        }
        let state = State {
            label: self.label.as_deref(),
            done: self.delivered + u64::from(read),
            total: self.total,
            elapsed: now.duration_since(begun),
            failed: self.failed,
            lost: self.deaths,
            answered: self.answered,
            cloud: self.cloud,
            microcredits: self.spent.microcredits,
        };
        self.progress.show(now, &state, |text| print_labelled(self.label.as_deref(), text));
    }

    /// The map is over, or was dropped: takes the bar away and writes the closing line.
    pub(crate) fn end(&mut self, complete: bool) {
        self.count_inline();
        self.progress.end();
        crate::report::console::remove_upload();
        let Some(begun) = self.begun else { return };
        let account = MapStats {
            delivered: self.delivered,
            failed: self.failed,
            deaths: self.deaths,
            restored: self.restored,
            answered: self.answered,
            cloud: self.cloud,
            inline_items: self.inline_items,
            elapsed: begun.elapsed(),
            wall: self.wall,
            cpu: self.cpu,
            queued: self.queued,
            failed_tries: self.failed_tries,
            plain: self.plain,
            bytes: self.bytes,
            beginning: self.beginning,
            first: self.first.map(|first| first.saturating_duration_since(begun)),
            waited: self.waited,
            workers: self.workers,
            cores: cores(),
            steady: crate::report::estimate::cores_are_steady(),
            paid: self.spent,
            alone: self.alone,
            complete,
            ended_by: self.ended_by,
        };
        let map = Map {
            label: self.label.as_deref(),
            function: &self.function,
            backend: &self.backend,
            total: self.total,
            microcredits: self.spent.microcredits,
        };
        self.timings.finish(&map, &account);
        if self.verbosity >= Verbosity::Normal {
            let mut line = closing_line(&account, &self.backend);
            // What a function fails with may hold what a terminal would obey.
            let failed = self.failures.most().map(|warning| shown(&warning));
            for said in [self.account.clone(), failed].into_iter().flatten() {
                line = format!("{line}; {said}");
            }
            self.print(&line);
        }
    }
}

/// Writes a line about a map.
fn print_labelled(label: Option<&str>, text: &str) {
    crate::report::console::line(&format!("fastmap: {}", labelled(label, text)));
}

#[cfg(test)]
mod tests {
    use crate::report::format::labelled;

    #[test]
    fn a_terminal_obeys_no_label() {
        let warning = labelled(Some("\u{1b}[2J red\r\nμ"), "done");
        assert_eq!(warning, "\\u{1b}[2J red\\r\\nμ: done");
    }
}
