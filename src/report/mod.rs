//! What a map tells on stderr: a progress bar, each batch when loud, one line at its end.
//! Fed by the drive and the adapter; `summary` finds the words, `console` keeps lines and bars apart.

mod console;
mod summary;

use std::time::{Duration, Instant};

use fastmap_backends::{Batch, Death, Receipt, RefusedCall, Results};
use indicatif::ProgressBar;

pub(crate) use console::{Console, notice, warn};
#[cfg(feature = "cloud")]
pub(crate) use console::{Upload, ask};
use summary::Account;

use crate::entry::inside_inline_call;
use crate::options::Verbosity;

/// A map that is over sooner shows no bar.
const BAR_AFTER: Duration = Duration::from_millis(500);
const REDRAW: Duration = Duration::from_millis(100);

/// What one map has done so far.
#[derive(Debug)]
pub(crate) struct Report {
    verbosity: Verbosity,
    progress: Option<bool>,
    label: Option<String>,
    backend: String,
    total: Option<u64>,
    begun: Option<Instant>,
    drawn: Option<Instant>,
    bar: Option<ProgressBar>,
    delivered: u64,
    failed: u64,
    /// Items that the calling thread may call for one by one, and how many of them it has not yet.
    granted: u32,
    pub(crate) singles: u32,
    deaths: u64,
    /// It was told that the sandbox refused a call.
    warned: bool,
    /// Items answered from a checkpoint.
    recalled: u64,
    /// Items answered by workers, and the time they took there.
    answered: u64,
    /// Items answered by the calling thread.
    here: u64,
    wall: Duration,
    cpu: Duration,
    /// Time in which the consumer waited for workers.
    waited: Duration,
    /// Workers that shared the work.
    workers: usize,
    /// What it cost.
    paid: Receipt,
}

impl Report {
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        Report {
            verbosity,
            progress: None,
            label: None,
            backend: String::new(),
            total: None,
            begun: None,
            drawn: None,
            bar: None,
            delivered: 0,
            failed: 0,
            granted: 0,
            singles: 0,
            deaths: 0,
            warned: false,
            recalled: 0,
            answered: 0,
            here: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            waited: Duration::ZERO,
            workers: 0,
            paid: Receipt::default(),
        }
    }

    pub(crate) fn show_progress(&mut self, show: bool) {
        self.progress = Some(show);
    }

    pub(crate) fn begin(&mut self, label: Option<&str>, total: Option<u64>) {
        if self.begun.is_some() {
            return;
        }
        if inside_inline_call() {
            // A map for each item of another one would write a line for each.
            self.verbosity = Verbosity::Quiet;
        }
        self.label = label.map(str::to_owned);
        self.total = total;
        self.begun = Some(Instant::now());
    }

    pub(crate) fn backend(&mut self, name: &str) {
        name.clone_into(&mut self.backend);
    }

    pub(crate) fn sent(&mut self, batch: &Batch) {
        if self.verbosity >= Verbosity::Loud {
            let (first, items, bytes) = (batch.first(), batch.items(), batch.payload().len());
            self.say(&format!(
                "sent items {first}..{} ({items} items, {bytes} bytes)",
                first + u64::from(items)
            ));
        }
    }

    pub(crate) fn answered(&mut self, first: u64, items: u32, results: &Results) {
        self.answered += u64::from(items);
        self.wall += results.wall;
        self.cpu += results.cpu;
        if let Some(refused) = &results.refused {
            self.refused(refused);
        }
        if self.verbosity >= Verbosity::Loud {
            self.say(&format!(
                "{} answered items {first}..{} in {:.3} ms ({:.3} ms CPU, {} failed, {} bytes)",
                results.worker,
                first + u64::from(items),
                results.wall.as_secs_f64() * 1e3,
                results.cpu.as_secs_f64() * 1e3,
                results.failures.len(),
                results.payload.bytes().len(),
            ));
        }
    }

    /// Items were answered from a checkpoint.
    pub(crate) fn recalled(&mut self, items: u32) {
        self.recalled += u64::from(items);
    }

    /// Once: what is refused to one item is mostly refused to all.
    fn refused(&mut self, refused: &RefusedCall) {
        if std::mem::replace(&mut self.warned, true) {
            return;
        }
        let label = self.label.as_ref().map(|label| format!("{label}: ")).unwrap_or_default();
        let call = &refused.call;
        let to = match refused.index {
            Some(index) => format!("item {index}, which has a result all the same"),
            None => "the preparation of the function, which went on".to_owned(),
        };
        warn(&format!(
            "{label}the sandbox refused {call} to {to}; Options::sandbox(Sandbox::Off) or FASTMAP_SANDBOX=off \
             allows it (told once a map)"
        ));
    }

    /// The calling thread has done so many items itself. So many answers of the current segment are read.
    pub(crate) fn done_here(&mut self, items: u32, read: u32) {
        self.here += u64::from(items);
        self.tick(read);
    }

    /// The calling thread may call for so many items one by one. Each takes one off `singles` and counts nothing else:
    /// a second counter in memory is felt where an item is a square root.
    pub(crate) fn grant(&mut self, items: u32) {
        (self.granted, self.singles) = (items, items);
    }

    /// Counts those that were called for, and takes the others back.
    pub(crate) fn count_singles(&mut self) -> u32 {
        let called = std::mem::take(&mut self.granted) - std::mem::take(&mut self.singles);
        self.delivered += u64::from(called);
        self.here += u64::from(called);
        called
    }

    /// Items that workers have answered, and the time that it took them.
    pub(crate) fn by_workers(&self) -> (u64, Duration) {
        (self.answered, self.wall)
    }

    pub(crate) fn has_deaths(&self) -> bool {
        self.deaths > 0
    }

    /// Where the next items go, in a map that may run in the calling thread.
    pub(crate) fn moves(&self, index: u64, place: &str) {
        if self.verbosity >= Verbosity::Loud {
            self.say(&format!("items from {index} on go to {place}"));
        }
    }

    pub(crate) fn died(&mut self, death: &Death) {
        self.deaths += 1;
        if self.verbosity >= Verbosity::Loud {
            self.say(&death.to_string());
        }
    }

    /// A segment was read, so far.
    pub(crate) fn read(&mut self, answers: u32) {
        self.delivered += u64::from(answers);
    }

    /// One of the answers was an error.
    pub(crate) fn failed(&mut self) {
        self.failed += 1;
    }

    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// So many workers share the run.
    pub(crate) fn workers(&mut self, workers: usize) {
        self.workers = workers;
    }

    /// The run has ended.
    pub(crate) fn paid(&mut self, receipt: Receipt) {
        self.paid.microcredits += receipt.microcredits;
        self.paid.balance = receipt.balance.or(self.paid.balance);
    }

    fn say(&self, text: &str) {
        match &self.label {
            Some(label) => console::line(&format!("fastmap: {label}: {text}")),
            None => console::line(&format!("fastmap: {text}")),
        }
    }

    /// Moves the bar, at most ten times a second. So many answers of the current segment are read.
    pub(crate) fn tick(&mut self, read: u32) {
        let Some(begun) = self.begun else { return };
        if !self.progress.unwrap_or(self.verbosity >= Verbosity::Normal) {
            return;
        }
        let now = Instant::now();
        if now.duration_since(begun) < BAR_AFTER
            || self.drawn.is_some_and(|drawn| now.duration_since(drawn) < REDRAW)
        {
            return;
        }
        self.drawn = Some(now);
        let (label, total) = (self.label.as_deref(), self.total);
        let bar = self.bar.get_or_insert_with(|| console::bar(label, total));
        let delivered = self.delivered + u64::from(read);
        let message = summary::progress(delivered, self.failed, total, now.duration_since(begun));
        bar.set_message(message);
        bar.set_position(delivered);
    }

    /// The map is over, or was dropped: takes the bar away and writes the closing line.
    pub(crate) fn end(&mut self, complete: bool) {
        self.count_singles();
        if let Some(bar) = self.bar.take() {
            console::remove(&bar);
        }
        console::remove_upload();
        let Some(begun) = self.begun else { return };
        if self.verbosity < Verbosity::Normal {
            return;
        }
        let account = Account {
            delivered: self.delivered,
            failed: self.failed,
            deaths: self.deaths,
            recalled: self.recalled,
            answered: self.answered,
            here: self.here,
            elapsed: begun.elapsed(),
            wall: self.wall,
            cpu: self.cpu,
            waited: self.waited,
            workers: self.workers,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            paid: self.paid,
            complete,
        };
        self.say(&account.closing_line(&self.backend));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            console::remove(&bar);
        }
    }
}
