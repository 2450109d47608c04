//! From the host to its workers: which side gets a batch, and what it costs to send it.

use fastmap_backends::adaptive::policy::{Event as PolicyEvent, Repeat, Side, Step};
use fastmap_backends::{Batch, BatchBuilder, BatchId, JobId, Targets};

use super::messages::{Event, Message, SentPiece};
use super::state::{Mode, Simulation};
use super::time::{CLOUD_MESSAGE, of_seconds, seconds};
use crate::clock::{Nanos, nanos};
use crate::worker::Piece;
use crate::world::World;

/// Bytes between two reports of an upload.
const PART: f64 = 1e6;

impl Simulation<'_> {
    pub(super) fn probe(&mut self) {
        let at = self.now + of_seconds(2.0 * self.place.round_trip);
        self.queue.at(at, Event::Message(Message::Probed));
    }

    /// Uploads what is missing and opens the run.
    pub(super) fn open(&mut self) {
        let place = self.place;
        let mut at = seconds(self.now);
        self.result.uploaded = place.upload;
        let mut left = place.upload;
        while left > 0.0 {
            let part = left.min(PART);
            at += part / place.up;
            left -= part;
            self.queue.at(of_seconds(at), Event::Message(Message::Uploading(left)));
        }
        if place.upload > 0.0 {
            at += place.round_trip;
        }
        at += place.round_trip + place.opening;
        self.queue.at(of_seconds(at), Event::Message(Message::Ready));
    }

    fn slots(&self, side: Side) -> usize {
        match side {
            Side::Local => self.place.local * 2,
            Side::Cloud => self.place.cloud * 4,
        }
    }

    fn has_place(&self, side: Side) -> bool {
        let able = match side {
            Side::Local => self.mode != Mode::Cloud,
            Side::Cloud => self.open && !self.dead && self.mode != Mode::Local,
        };
        able && self.in_flight.count(side) < self.slots(side)
    }

    /// Sends a batch, if there is one and a place for it; what it costs the host.
    pub(super) fn send(&mut self) -> Option<Nanos> {
        let now = seconds(self.now);
        if let Some(policy) = &mut self.policy {
            match policy.step(now).0 {
                Step::Probe => self.probe(),
                Step::Open => self.open(),
                Step::Stay | Step::Leave => {}
            }
        }
        let side = self.side(now);
        if let Some(side) = side
            && let Some(batch) = self.pull(side)
        {
            return Some(self.submit(batch, side));
        }
        // Nothing can be pulled, or no place is worth it.
        let policy = self.policy.as_mut()?;
        let (local, cloud) = (self.in_flight.count(Side::Local), self.in_flight.count(Side::Cloud));
        let local_idle = local < self.place.local && side != Some(Side::Cloud) || self.drive.left() == 0;
        let local_idle = local_idle && local < self.place.local && self.resubmit_queue.is_empty();
        let cloud_idle = self.open && cloud < self.place.cloud && self.drive.left() == 0;
        if self.drive.left() == 0 && !self.place.length_known {
            policy.end_input();
        }
        let Repeat { batch, to, pieces } = policy.repeat(now, local_idle, cloud_idle)?;
        let free = self.slots(to) - self.in_flight.count(to).min(self.slots(to));
        let Some(copies) = self.in_flight.copy(batch, to, pieces.min(free as u32)) else {
            if let Some(policy) = &mut self.policy {
                policy.not_repeated(batch);
            }
            return Some(1_000);
        };
        self.result.repeated += 1;
        let items = copies.iter().map(Batch::items).sum::<u32>();
        let bytes = (f64::from(items) * self.place.bytes.0) as u64;
        self.notify_policy(&PolicyEvent::Sent { batch, side: to, first: copies[0].first(), items, bytes });
        Some(copies.iter().map(|copy| self.send_piece(copy, to)).sum())
    }

    fn side(&mut self, now: f64) -> Option<Side> {
        let (local, cloud) = (self.has_place(Side::Local), self.has_place(Side::Cloud));
        let Some(policy) = &mut self.policy else {
            return if local { Some(Side::Local) } else { cloud.then_some(Side::Cloud) };
        };
        if self.drive.left() == 0 && self.resubmit_queue.is_empty() {
            return None;
        }
        let work = |targets: &Targets| targets.work.as_secs_f64();
        let (local, cloud) = (local.then(|| work(&self.targets[0])), cloud.then(|| work(&self.targets[1])));
        match self.resubmit_queue.first_key_value().is_some_and(|(_, batch)| batch.attempt() > 0) {
            true => policy.place_again(now, local, cloud),
            false => policy.place(now, local, cloud),
        }
    }

    fn pull(&mut self, side: Side) -> Option<Batch> {
        if let Some((_, batch)) = self.resubmit_queue.pop_first() {
            return Some(batch);
        }
        let now = seconds(self.now);
        let (sharers, bias) = self
            .policy
            .as_ref()
            .map_or((0, 1.0), |policy| (policy.sharers(now).round() as usize, policy.bias(now, side)));
        let workers = match self.mode {
            Mode::Cloud => self.place.cloud.max(1),
            Mode::Adaptive(_) => sharers,
            Mode::Local => self.place.local,
        };
        let mut targets = self.targets[side as usize];
        (targets.work, targets.least) = (targets.work.div_f64(bias), targets.least.div_f64(bias));
        self.drive.aim(targets, workers);
        let slots = self.slots(Side::Local) + if self.open { self.slots(Side::Cloud) } else { 0 };
        let out = self.in_flight.count(Side::Local) + self.in_flight.count(Side::Cloud);
        let (batch, first, items) = self.drive.pull(slots, out)?;
        Some(placeholder(BatchId(batch), first, items))
    }

    /// Gives a batch to a side; what it costs the host.
    fn submit(&mut self, batch: Batch, side: Side) -> Nanos {
        let (first, items) = (batch.first(), batch.items());
        let bytes = (f64::from(items) * self.place.bytes.0) as u64;
        self.notify_policy(&PolicyEvent::Sent { batch: batch.id().0, side, first, items, bytes });
        let cost = self.send_piece(&batch, side);
        self.in_flight.submitted(batch, side);
        cost
    }

    /// A batch, or a piece of a copy, is on its way to a side.
    fn send_piece(&mut self, batch: &Batch, side: Side) -> Nanos {
        let host = World::local(1).host;
        let (name, first, items, attempt) = (batch.id(), batch.first(), batch.items(), batch.attempt());
        self.sent[side as usize].insert(name, SentPiece { first, items, attempt, ..SentPiece::default() });
        let encode = u64::from(items) * nanos(host.item);
        match side {
            Side::Local => {
                let piece = Piece { ticket: 0, batch: name.0, first, items };
                let cost = encode + nanos(host.send);
                let ends = self.groups[0].submit(piece, self.now + cost, self.items);
                self.expect(Side::Local, ends);
                cost
            }
            Side::Cloud => {
                let cost = encode + CLOUD_MESSAGE;
                let bytes = f64::from(items) * self.place.bytes.0;
                self.up_free = self.up_free.max(self.now + cost) + of_seconds(bytes / self.place.up);
                self.queue.at(
                    self.up_free + of_seconds(self.place.round_trip / 2.0),
                    Event::ArrivedAtService(name),
                );
                cost
            }
        }
    }
}

/// A batch whose items are one byte each: here it matters which they are, and not what is in them.
pub(super) fn placeholder(name: BatchId, first: u64, items: u32) -> Batch {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().extend(std::iter::repeat_n(0, items as usize));
    builder.added(items);
    builder.finish(JobId(0), name, first, 0)
}
