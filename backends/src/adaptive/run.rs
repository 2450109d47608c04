//! One map on two runs: asks the policy, and does what it says. The cloud's run is opened when the policy wants to ask the
//! service, which costs a round trip; it is prepared (uploaded, opened) when the policy wants to use it.

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

/// While both have something, each is looked at in turn so often. A look takes microseconds.
const TURN: Duration = Duration::from_millis(1);
pub(super) struct AdaptiveRun {
    job: Arc<Job>,
    sides: Sides,
    backend: Arc<dyn Backend>,
    policy: Policy,
    in_flight: InFlight,
    ready: VecDeque<Completion>,
    /// Items that the service's own limits keep from an answer there.
    only_here: BTreeSet<u64>,
    options: AdaptiveOptions,
    trace: Trace,
    begun: Instant,
    /// When the policy is to be asked again about the service.
    next_step: Instant,
    upload_left: u64,
    answered: [u64; 2],
    repeated: u64,
    used: bool,
    /// The last forecast that said no.
    declined: Option<Forecast>,
    cost: (u64, Duration, u64),
    why: Option<String>,
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
        let begun = Instant::now();
        AdaptiveRun {
            job,
            sides: Sides::new(local),
            backend,
            policy,
            in_flight: InFlight::default(),
            ready: VecDeque::new(),
            only_here: BTreeSet::new(),
            options,
            trace,
            begun,
            next_step: begun,
            upload_left: 0,
            answered: [0; 2],
            repeated: 0,
            used: false,
            declined: None,
            cost: (0, Duration::ZERO, 0),
            why: None,
        }
    }

    fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn see(&mut self, event: Event) {
        let at = self.now();
        self.policy.see(at, &event);
        self.trace.line(|| Line::Saw { at, saw: event });
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        self.options.witness.decided(&text());
    }

    /// For the host's adapter: what a side has answered, and what comes back.
    fn hand_out(&mut self, completions: impl IntoIterator<Item = (Side, Completion)>) {
        for (side, completion) in completions {
            if matches!(completion.outcome, Outcome::Done(_)) {
                self.answered[side as usize] += u64::from(completion.items);
            }
            self.ready.push_back(completion);
        }
    }

    /// Places in the service, and what it wants of a batch.
    fn there(&mut self) -> Option<Capacity> {
        if *self.policy.link() != Link::Ready {
            return None;
        }
        self.sides.cloud.as_mut().map(|cloud| cloud.capacity())
    }

    /// Where the next batch goes; `again`: one item that was tried before.
    fn place(&mut self, here: &Capacity, there: Option<&Capacity>, again: bool) -> Option<Side> {
        let work =
            |capacity: &Capacity| (capacity.batches > 0).then_some(capacity.targets.work.as_secs_f64());
        let at = self.now();
        let side = match there {
            None => work(here).map(|_| Side::Local),
            Some(there) if again => self.policy.place_again(at, work(here), work(there)),
            Some(there) => self.policy.place(at, work(here), work(there)),
        };
        // A run that holds nothing takes what it gets.
        side.or_else(|| self.in_flight.is_empty().then_some(Side::Local))
    }

    fn send(&mut self, batch: Batch, side: Side) -> Result<(), SubmitError> {
        let (id, first, items, bytes) =
            (batch.id().0, batch.first(), batch.items(), batch.payload().len() as u64);
        self.in_flight.submitted(batch.clone(), side);
        if let Err(error) = self.sides.submit(side, batch) {
            let batch = error.into_batch();
            self.in_flight.refused(&batch, side);
            // The other side may take it.
            return Err(SubmitError::Full(batch));
        }
        self.see(Event::Sent { batch: id, side, first, items, bytes });
        if side == Side::Cloud && !std::mem::replace(&mut self.used, true) {
            let at = self.now();
            self.trace.line(|| Line::Uses { at, side });
            self.tell(|| format!("from item {first} on, batches go to the service as well"));
        }
        Ok(())
    }

    /// Whether a loss says something of the batch, and not of the side: an item of it may have done it.
    fn accuses(&self, side: Side, loss: &WorkerLoss) -> bool {
        let cut = side == Side::Cloud && service_limits::is_cut_by_it(loss, self.job.item_timeout);
        split_after_crash::accuses(loss) && !cut
    }

    /// News of a side.
    fn landed(&mut self, side: Side, completion: Completion) {
        let (items, first) = (completion.items, completion.first);
        let (accuses, lost) = match &completion.outcome {
            Outcome::Lost(_, loss) => {
                let accuses = self.accuses(side, loss);
                // Where nothing was ever answered, the side is to blame rather than each of the items.
                let known = accuses && matches!(loss.running, Running::Item(_));
                (accuses, !known || self.answered[side as usize] == 0)
            }
            _ => (false, false),
        };
        // What a service does not do is no answer to an item that this machine may do.
        let beyond =
            side == Side::Cloud && service_limits::is_of_the_service(&completion, self.job.item_timeout);
        let completion = if beyond {
            self.only_here.insert(first);
            self.in_flight.taken_back(completion)
        } else {
            completion
        };
        let news = match &completion.outcome {
            Outcome::Done(results) => Some((results.wall, results.cpu, results.payload.len() as u64)),
            Outcome::Returned(_) | Outcome::Lost(..) => None,
        };
        let landed = self.in_flight.landed(side, completion, accuses);
        let Some(batch) = landed.of else { return };
        let event = match news {
            Some((wall, cpu, bytes)) => {
                self.cost = (self.cost.0 + u64::from(items), self.cost.1 + cpu, self.cost.2 + bytes);
                Event::Answered { batch, side, items, wall: wall.as_secs_f64(), bytes }
            }
            None => Event::Back { batch, side, items, lost },
        };
        for event in landed.seen(side, event) {
            self.see(event);
        }
        for cancel in landed.cancel {
            self.sides.cancel(cancel);
        }
        self.hand_out(landed.completions);
    }

    /// Takes what the service has to tell, without waiting, or for so long where nothing else can come.
    fn hear_cloud(&mut self, until: Instant) {
        let mut until = until;
        while let Some(cloud) = &mut self.sides.cloud {
            match cloud.poll(until) {
                Ok(Some(completion)) => {
                    self.landed(Side::Cloud, completion);
                    until = self.begun;
                }
                Ok(None) => return,
                Err(error) => self.gone(&error),
            }
        }
    }

    /// Nothing more is handed in, and workers are idle: what lags elsewhere is done here as well, or there.
    fn repeat(&mut self) {
        if *self.policy.link() != Link::Ready && self.in_flight.count(Side::Cloud) == 0 {
            return;
        }
        let here = self.sides.local.capacity();
        let there = self.there();
        let local_idle = self.in_flight.count(Side::Local) < here.workers;
        let cloud_idle =
            there.is_some_and(|there| there.batches > 0 && self.in_flight.count(Side::Cloud) < there.workers);
        let at = self.now();
        let Some(mut repeat) = self.policy.repeat(at, local_idle, cloud_idle) else { return };
        let free = match repeat.to {
            Side::Local => here.batches,
            Side::Cloud => there.map_or(0, |there| there.batches),
        };
        repeat.pieces = repeat.pieces.min(u32::try_from(free).unwrap_or(u32::MAX));
        if !self.copy(repeat, "lag") {
            self.policy.not_repeated(repeat.batch);
        }
    }

    /// What a service has that gives no answer is done here as places come free, before anything that is not begun.
    fn rescue(&mut self) {
        while self.policy.is_silent() && self.sides.local.capacity().batches > 0 {
            let Some(repeat) = self.policy.rescue() else { return };
            if self.copy(repeat, "get no answer") {
                continue;
            }
            // What is under suspicion, or in parts, has no copy.
            let Some((cancel, back)) = self.in_flight.withdraw(repeat.batch, Side::Cloud) else {
                self.policy.not_repeated(repeat.batch);
                continue;
            };
            let items = cancel.items;
            self.sides.cancel(cancel);
            self.see(Event::Back { batch: repeat.batch, side: Side::Cloud, items, lost: false });
            self.hand_out(back.into_iter().map(|completion| (Side::Local, completion)));
        }
    }

    /// Does a batch a second time, for that reason. Whether there is a copy of it, and the other side has taken that.
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
                if let Some(cancel) = self.in_flight.uncopied(name, to) {
                    self.sides.cancel(cancel);
                }
                return false;
            }
        }
        self.repeated += 1;
        self.trace.line(|| Line::Repeat { at, repeat });
        self.see(Event::Sent { batch, side: to, first, items, bytes });
        self.tell(|| {
            let place = if to == Side::Local { "here" } else { "in the service" };
            format!("items {first}..{} {why}, and are done {place} as well", first + u64::from(items))
        });
        true
    }
}

impl Run for AdaptiveRun {
    /// That of this machine's workers, which are there first.
    fn readiness(&mut self) -> Readiness {
        self.sides.local.readiness()
    }

    fn capacity(&mut self) -> Capacity {
        let here = self.sides.local.capacity();
        let Some(there) = self.there() else { return here };
        let side = self.place(&here, Some(&there), false);
        let targets = match side {
            Some(Side::Cloud) => there.targets,
            _ => here.targets,
        };
        let at = self.now();
        let bias = self.policy.bias(at, side.unwrap_or(Side::Local));
        let targets =
            Targets { work: targets.work.div_f64(bias), least: targets.least.div_f64(bias), ..targets };
        Capacity {
            batches: usize::from(side.is_some()),
            slots: here.slots + there.slots,
            workers: (self.policy.sharers(at).round() as usize).max(here.workers),
            targets,
        }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        let here = self.sides.local.capacity();
        let there = self.there();
        let side = match self.only_here.contains(&batch.first()) && batch.items() == 1 {
            true => Some(Side::Local),
            false => self.place(&here, there.as_ref(), batch.attempt() > 0),
        };
        match side {
            Some(side) => self.send(batch, side),
            None => Err(SubmitError::Full(batch)),
        }
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        loop {
            self.rescue();
            if let Some(completion) = self.ready.pop_front() {
                return Ok(Some(completion));
            }
            let now = Instant::now();
            if now >= self.next_step {
                self.step();
            }
            self.hear_cloud(self.begun);
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
                () if both || asking => now + TURN,
                () if matches!(self.policy.link(), Link::Left { .. }) => deadline,
                () => self.next_step.max(now + TURN),
            };
            let until = slice.min(deadline);
            if self.in_flight.count(Side::Local) == 0 && both {
                self.hear_cloud(until);
            } else if let Some(completion) = self.sides.local.poll(until)? {
                self.landed(Side::Local, completion);
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
        let (gone, declined) = (self.why.as_deref(), self.declined.as_ref());
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
        let paid = there > 0 && self.in_flight.count(Side::Cloud) == 0;
        self.sides.close(paid)
    }
}

#[cfg(test)]
mod tests;
