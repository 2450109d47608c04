//! Run of one map on two runs: asks the policy, and applies its decisions. The cloud's run is opened when the
//! policy wants to contact the service, which costs a round trip. It is prepared (uploaded, opened) when the
//! policy wants to use it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AdaptiveOptions;
use super::in_flight::InFlight;
use super::policy::{Event, Forecast, Link, Policy, Repeat, Side};
use super::quote::MICRO;
use super::sides::Sides;
use super::summary;
use super::trace::{Line, Trace};
use crate::adaptive::service_limits;
use crate::backend::SubmitError;
use crate::execution::job::Job;
use crate::model::batch::Batch;
use crate::model::batch_sizing::Targets;
use crate::model::completion::{Completion, Outcome};
use crate::model::cost::Receipt;
use crate::model::death::{Running, WorkerLoss};
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{Backend, Capacity, Readiness, Run, split_after_crash};

mod service_link;

/// Interval of polling each side in turn while both have work. A poll takes microseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
pub(super) struct AdaptiveRun {
    job: Arc<Job>,
    sides: Sides,
    backend: Arc<dyn Backend>,
    policy: Policy,
    in_flight: InFlight,
    ready: VecDeque<Completion>,
    /// Items that fail at the service by its own limits.
    local_only: BTreeSet<u64>,
    options: AdaptiveOptions,
    trace: Trace,
    started: Instant,
    /// Next time to ask the policy about the service.
    next_step: Instant,
    upload_left: u64,
    answered: [u64; 2],
    repeated: u64,
    used: bool,
    /// The last forecast without a change.
    declined: Option<Forecast>,
    cost: (u64, Duration, u64),
    left_because: Option<String>,
}

impl AdaptiveRun {
    pub(super) fn new(
        mut local: Box<dyn Run>,
        backend: Arc<dyn Backend>,
        job: Arc<Job>,
        options: AdaptiveOptions,
    ) -> Self {
        let workers = u32::try_from(local.capacity().workers).unwrap_or(u32::MAX);
        let policy = Policy::new(options.policy, job.items, workers);
        let mut trace = Trace::open(options.trace.as_deref());
        trace.line(|| Line::Begin {
            label: job.label.clone(),
            function: job.function.name.clone(),
            items: job.items,
            workers,
            options: options.policy,
        });
        let started = Instant::now();
        AdaptiveRun {
            job,
            sides: Sides::new(local),
            backend,
            policy,
            in_flight: InFlight::default(),
            ready: VecDeque::new(),
            local_only: BTreeSet::new(),
            options,
            trace,
            started,
            next_step: started,
            upload_left: 0,
            answered: [0; 2],
            repeated: 0,
            used: false,
            declined: None,
            cost: (0, Duration::ZERO, 0),
            left_because: None,
        }
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn see(&mut self, event: Event) {
        let at = self.now();
        self.policy.see(at, &event);
        self.trace.line(|| Line::Saw { at, saw: event });
    }

    fn notify(&self, text: impl FnOnce() -> String) {
        self.options.witness.decided(&text());
    }

    /// Queues completions of a side for the host's adapter.
    fn deliver(&mut self, completions: impl IntoIterator<Item = (Side, Completion)>) {
        for (side, completion) in completions {
            if matches!(completion.outcome, Outcome::Done(_)) {
                self.answered[side as usize] += u64::from(completion.items);
            }
            self.ready.push_back(completion);
        }
    }

    /// Capacity of the service's run; `None` unless it is ready.
    fn cloud_capacity(&mut self) -> Option<Capacity> {
        if *self.policy.link() != Link::Ready {
            return None;
        }
        self.sides.cloud.as_mut().map(|cloud| cloud.capacity())
    }

    /// Side for the next batch; `again`: one item that was tried before.
    fn place(&mut self, local: &Capacity, cloud: Option<&Capacity>, again: bool) -> Option<Side> {
        let work =
            |capacity: &Capacity| (capacity.batches > 0).then_some(capacity.targets.work.as_secs_f64());
        let at = self.now();
        let side = match cloud {
            None => work(local).map(|_| Side::Local),
            Some(cloud) if again => self.policy.place_again(at, work(local), work(cloud)),
            Some(cloud) => self.policy.place(at, work(local), work(cloud)),
        };
        // If nothing is in flight, accept the batch locally, so that the map makes progress.
        side.or_else(|| self.in_flight.is_empty().then_some(Side::Local))
    }

    fn send(&mut self, batch: Batch, side: Side) -> Result<(), SubmitError> {
        let (id, first, items, bytes) =
            (batch.id().0, batch.first(), batch.items(), batch.payload().len() as u64);
        self.in_flight.submitted(batch.clone(), side);
        if let Err(error) = self.sides.submit(side, batch) {
            let batch = error.into_batch();
            self.in_flight.on_rejected(&batch, side);
            // The other side may accept it.
            return Err(SubmitError::Full(batch));
        }
        self.see(Event::Sent { batch: id, side, first, items, bytes });
        if side == Side::Cloud && !std::mem::replace(&mut self.used, true) {
            let at = self.now();
            self.trace.line(|| Line::Uses { at, side });
            self.notify(|| format!("from item {first} on, batches go to the service as well"));
        }
        Ok(())
    }

    /// Returns whether a loss casts suspicion on the batch's items, and not on the side.
    fn is_suspect(&self, side: Side, loss: &WorkerLoss) -> bool {
        let cut = side == Side::Cloud && service_limits::is_service_timeout(loss, self.job.item_timeout);
        split_after_crash::accuses(loss) && !cut
    }

    /// Processes a completion of a side.
    fn on_completion(&mut self, side: Side, completion: Completion) {
        let (items, first) = (completion.items, completion.first);
        let (accuses, lost) = match &completion.outcome {
            Outcome::Lost(_, loss) => {
                let accuses = self.is_suspect(side, loss);
                // If a side has never answered, blame the side rather than each item.
                let known = accuses && matches!(loss.running, Running::Item(_));
                (accuses, !known || self.answered[side as usize] == 0)
            }
            _ => (false, false),
        };
        // A rejection by the service's own limits is no answer: this machine may run the item.
        let is_limit =
            side == Side::Cloud && service_limits::is_service_limit(&completion, self.job.item_timeout);
        let completion = if is_limit {
            self.local_only.insert(first);
            self.in_flight.as_returned(completion)
        } else {
            completion
        };
        let answer = match &completion.outcome {
            Outcome::Done(results) => Some((results.wall, results.cpu, results.payload.len() as u64)),
            Outcome::Returned(_) | Outcome::Lost(..) => None,
        };
        let result = self.in_flight.landed(side, completion, accuses);
        let Some(batch) = result.of else { return };
        let event = match answer {
            Some((wall, cpu, bytes)) => {
                self.cost = (self.cost.0 + u64::from(items), self.cost.1 + cpu, self.cost.2 + bytes);
                Event::Answered { batch, side, items, wall: wall.as_secs_f64(), bytes }
            }
            None => Event::Back { batch, side, items, lost },
        };
        for event in result.seen(side, event) {
            self.see(event);
        }
        for cancel in result.cancel {
            self.sides.cancel(cancel);
        }
        self.deliver(result.completions);
    }

    /// Processes completions of the service, without waiting or, if no other side has work, until a deadline.
    fn poll_cloud(&mut self, until: Instant) {
        let mut until = until;
        while let Some(cloud) = &mut self.sides.cloud {
            match cloud.poll(until) {
                Ok(Some(completion)) => {
                    self.on_completion(Side::Cloud, completion);
                    until = self.started;
                }
                Ok(None) => return,
                Err(error) => self.leave_service(&error),
            }
        }
    }

    /// Repeats a straggling batch on the other side, if that has idle workers. Called when no new batch is
    /// submitted.
    fn repeat(&mut self) {
        if *self.policy.link() != Link::Ready && self.in_flight.count(Side::Cloud) == 0 {
            return;
        }
        let local = self.sides.local.capacity();
        let cloud = self.cloud_capacity();
        let local_idle = self.in_flight.count(Side::Local) < local.workers;
        let cloud_idle =
            cloud.is_some_and(|cloud| cloud.batches > 0 && self.in_flight.count(Side::Cloud) < cloud.workers);
        let at = self.now();
        let Some(mut repeat) = self.policy.repeat(at, local_idle, cloud_idle) else { return };
        let free = match repeat.to {
            Side::Local => local.batches,
            Side::Cloud => cloud.map_or(0, |cloud| cloud.batches),
        };
        repeat.pieces = repeat.pieces.min(u32::try_from(free).unwrap_or(u32::MAX));
        if !self.copy(repeat, "lag") {
            self.policy.not_repeated(repeat.batch);
        }
    }

    /// Copies batches of a silent service to local workers as slots become free, before any new batch.
    fn copy_silent_batches(&mut self) {
        while self.policy.is_silent() && self.sides.local.capacity().batches > 0 {
            let Some(repeat) = self.policy.rescue() else { return };
            if self.copy(repeat, "get no answer") {
                continue;
            }
            // Suspects and batches in parts have no copy: withdraw them.
            let Some((cancel, back)) = self.in_flight.withdraw(repeat.batch, Side::Cloud) else {
                self.policy.not_repeated(repeat.batch);
                continue;
            };
            let items = cancel.items;
            self.sides.cancel(cancel);
            self.see(Event::Back { batch: repeat.batch, side: Side::Cloud, items, lost: false });
            self.deliver(back.into_iter().map(|completion| (Side::Local, completion)));
        }
    }

    /// Runs a batch on another side as well, for this reason. Returns whether there is a copy, and the other
    /// side has accepted it.
    fn copy(&mut self, repeat: Repeat, why: &str) -> bool {
        let at = self.now();
        let Repeat { batch, to, pieces } = repeat;
        let Some(copies) = self.in_flight.copy(batch, to, pieces) else { return false };
        let count =
            |sum: (u32, u64), copy: &Batch| (sum.0 + copy.items(), sum.1 + copy.payload().len() as u64);
        let (items, bytes) = copies.iter().fold((0, 0), count);
        let first = copies.first().map_or(0, Batch::first);
        for copy in copies {
            let name = copy.id();
            if self.sides.submit(to, copy).is_err() {
                if let Some(cancel) = self.in_flight.remove_copy(name, to) {
                    self.sides.cancel(cancel);
                }
                return false;
            }
        }
        self.repeated += 1;
        self.trace.line(|| Line::Repeat { at, repeat });
        self.see(Event::Sent { batch, side: to, first, items, bytes });
        self.notify(|| {
            let place = if to == Side::Local { "here" } else { "in the service" };
            format!("items {first}..{} {why}, and are done {place} as well", first + u64::from(items))
        });
        true
    }
}

impl Run for AdaptiveRun {
    /// Readiness of the local workers, which exist first.
    fn readiness(&mut self) -> Readiness {
        self.sides.local.readiness()
    }

    fn capacity(&mut self) -> Capacity {
        let local = self.sides.local.capacity();
        let Some(cloud) = self.cloud_capacity() else { return local };
        let side = self.place(&local, Some(&cloud), false);
        let targets = match side {
            Some(Side::Cloud) => cloud.targets,
            _ => local.targets,
        };
        let at = self.now();
        let bias = self.policy.bias(at, side.unwrap_or(Side::Local));
        let targets =
            Targets { work: targets.work.div_f64(bias), least: targets.least.div_f64(bias), ..targets };
        Capacity {
            batches: usize::from(side.is_some()),
            slots: local.slots + cloud.slots,
            workers: (self.policy.sharers(at).round() as usize).max(local.workers),
            targets,
        }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        let local = self.sides.local.capacity();
        let cloud = self.cloud_capacity();
        let side = match self.local_only.contains(&batch.first()) && batch.items() == 1 {
            true => Some(Side::Local),
            false => self.place(&local, cloud.as_ref(), batch.attempt() > 0),
        };
        match side {
            Some(side) => self.send(batch, side),
            None => Err(SubmitError::Full(batch)),
        }
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        loop {
            self.copy_silent_batches();
            if let Some(completion) = self.ready.pop_front() {
                return Ok(Some(completion));
            }
            let now = Instant::now();
            if now >= self.next_step {
                self.step();
            }
            self.poll_cloud(self.started);
            if !self.ready.is_empty() {
                continue;
            }
            let waits = deadline > now;
            if waits {
                self.repeat();
            }
            let both = self.in_flight.count(Side::Cloud) > 0;
            let asking = matches!(self.policy.link(), Link::Probing | Link::Opening { .. });
            let slice = match () {
                () if both || asking => now + POLL_INTERVAL,
                () if matches!(self.policy.link(), Link::Left { .. }) => deadline,
                () => self.next_step.max(now + POLL_INTERVAL),
            };
            let until = slice.min(deadline);
            if self.in_flight.count(Side::Local) == 0 && both {
                self.poll_cloud(until);
            } else if let Some(completion) = self.sides.local.poll(until)? {
                self.on_completion(Side::Local, completion);
            }
            if self.ready.is_empty() && Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    fn cancel(&mut self, batch: BatchId) {
        self.sides.local.cancel(batch);
        if let Some(cloud) = &mut self.sides.cloud {
            cloud.cancel(batch);
        }
    }

    fn cost_so_far(&mut self) -> Receipt {
        self.sides.cost_so_far()
    }

    fn summary(&mut self) -> Option<String> {
        let (gone, declined) = (self.left_because.as_deref(), self.declined.as_ref());
        Some(summary::of_map(self.answered, self.repeated, gone, self.policy.link(), declined))
    }

    fn local_baseline(&mut self) -> Option<Duration> {
        let [_, there] = self.answered;
        let seconds = (there > 0).then(|| self.policy.alone_so_far(self.now()))??;
        Some(Duration::from_secs_f64(seconds))
    }

    fn close(mut self: Box<Self>) -> Receipt {
        let at = self.now();
        let [here, there] = self.answered;
        let cost = self.cost_so_far().microcredits as f64 * MICRO;
        self.trace.line(|| Line::End { at, here, there, credits: cost });
        self.trace.end();
        let await_bill = there > 0 && self.in_flight.count(Side::Cloud) == 0;
        self.sides.close(await_bill)
    }
}

#[cfg(test)]
mod tests;
