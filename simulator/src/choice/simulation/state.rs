//! The loop of a simulation over its events.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use fastmap_backends::adaptive::in_flight::InFlight;
use fastmap_backends::adaptive::policy::{Event as PolicyEvent, Link, Options, Policy, Side};
use fastmap_backends::{Batch, BatchId, Targets};

use super::messages::{Event, Message, SentPiece};
use super::time::{of_seconds, seconds};
use crate::choice::ranges::Place;
use crate::choice::worker_group::{Ends, WorkerGroup};
use crate::clock::{Nanos, Queue, nanos};
use crate::drive::Drive;
use crate::settings::Settings;
use crate::shapes::Items;
use crate::worker::Piece;
use crate::world::World;

/// Time that a worker of the service spends on a batch beside its items.
const CLOUD_OVERHEAD: Nanos = 100_000;
/// Time until another worker has taken the place of a dead one.
const START: Nanos = 10_000_000;
/// CPU time that a run in the service may use for unanswered items, free of charge.
const FREE: Nanos = 1_000_000_000;

/// No map takes so many events.
const ENDLESS: u64 = 20_000_000;

/// What decides where a batch goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Every batch runs locally.
    Local,
    /// Every batch runs in the service.
    Cloud,
    /// The policy.
    Adaptive(Options),
}

/// The result of a simulated map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimulatedMap {
    /// Seconds; infinite where it did not come to its end (CLOUD without credits, or without a service).
    pub seconds: f64,
    /// Credits that its answers cost, and what ended its workers.
    pub credits: f64,
    /// Credits for what was cancelled.
    pub cancelled_credits: f64,
    /// Items answered locally, and by the service.
    pub answered: [u64; 2],
    /// Items that were answered by an error: they hang or crash.
    pub failed: u64,
    /// How often workers ran an item that hangs or crashes to its end.
    pub deaths: u64,
    /// Batches done twice.
    pub repeated: u64,
    /// Bytes of executable and context that were uploaded.
    pub uploaded: f64,
    /// The most bytes of inputs and undelivered results that it held.
    pub peak_bytes: f64,
    /// A run was opened.
    pub opened: bool,
    /// Events handled.
    pub events: u64,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Simulation<'a> {
    pub(super) place: &'a Place,
    pub(super) items: &'a Items,
    pub(super) mode: Mode,
    pub(super) policy: Option<Policy>,
    pub(super) targets: [Targets; 2],
    pub(super) queue: Queue<Event>,
    pub(super) now: Nanos,
    pub(super) busy: bool,
    pub(super) ticking: bool,
    pub(super) messages: VecDeque<Message>,
    pub(super) drive: Drive,
    pub(super) resubmit_queue: BTreeMap<u64, Batch>,
    pub(super) in_flight: InFlight,
    pub(super) sent: [HashMap<BatchId, SentPiece>; 2],
    pub(super) groups: [WorkerGroup; 2],
    pub(super) up_free: Nanos,
    pub(super) down_free: Nanos,
    pub(super) open: bool,
    pub(super) dead: bool,
    pub(super) failed: bool,
    /// First items of batches that were lost.
    pub(super) lost: HashSet<u64>,
    /// Batches of the service whose answers are on their way, and waited for.
    pub(super) due: HashSet<BatchId>,
    pub(super) result: SimulatedMap,
}

/// What a batch for the service should be: its work must outweigh the round trip, which four places a worker have to hide.
fn far_targets(round_trip: f64) -> Targets {
    let latency = Duration::from_secs_f64(round_trip);
    let far = Settings::local().far(5.0, latency).targets;
    let work = far.work.max(latency / 2);
    Targets { work, least: work / 10, bytes: 1 << 20 }
}

/// Plays a map to its end.
///
/// # Panics
/// If the rules stand still before the end: the message names the world.
pub fn simulate(place: &Place, items: &Items, mode: Mode) -> SimulatedMap {
    let mut simulation = Simulation::new(place, items, mode);
    simulation.begin();
    while let Some((at, event)) = simulation.queue.pop() {
        simulation.now = at;
        simulation.result.events += 1;
        simulation.on_event(event);
        assert!(simulation.result.events < ENDLESS, "{mode:?} comes to no end in {place:?}");
        if simulation.drive.complete() || simulation.failed {
            return simulation.end();
        }
    }
    panic!("nothing more happens under {mode:?} in {place:?}");
}

impl<'a> Simulation<'a> {
    fn new(place: &'a Place, items: &'a Items, mode: Mode) -> Self {
        let settings = Settings::local();
        let world = World::local(place.local);
        let bytes = (place.bytes.0 as usize, place.bytes.1 as usize);
        let far = far_targets(place.round_trip);
        let (targets, workers) = match mode {
            Mode::Cloud => (far, place.cloud.max(1)),
            _ => (settings.targets, place.local),
        };
        let policy = match mode {
            Mode::Adaptive(options) => {
                Some(Policy::new(options, place.length_known.then_some(place.items), place.local as u32))
            }
            _ => None,
        };
        let overhead = nanos(world.worker_batch);
        Simulation {
            place,
            items,
            mode,
            policy,
            targets: [settings.targets, far],
            queue: Queue::default(),
            now: 0,
            busy: false,
            ticking: false,
            messages: VecDeque::new(),
            drive: Drive::new(&Settings { targets, ..settings }, workers, items.count(), bytes),
            resubmit_queue: BTreeMap::new(),
            in_flight: InFlight::default(),
            sent: [HashMap::new(), HashMap::new()],
            groups: [
                WorkerGroup::new(place.local, 1.0, overhead + nanos(world.one_way), 100_000),
                WorkerGroup::new(place.cloud, place.slowness, CLOUD_OVERHEAD, 200_000),
            ],
            up_free: 0,
            down_free: 0,
            open: false,
            dead: false,
            failed: false,
            lost: HashSet::new(),
            due: HashSet::new(),
            result: SimulatedMap::default(),
        }
    }

    fn begin(&mut self) {
        if self.mode != Mode::Cloud {
            let start = World::local(self.place.local).start;
            for worker in 0..self.place.local {
                self.queue.at(start.ready(worker), Event::Arrive(worker));
            }
        }
        for worker in 0..self.place.cloud {
            let _empty = self.groups[1].arrive(worker, 0, self.items);
        }
        if self.mode == Mode::Cloud {
            self.probe();
        }
        if self.place.dies.is_finite() {
            self.queue.at(of_seconds(self.place.dies), Event::Dies);
        }
        self.host();
    }

    fn end(mut self) -> SimulatedMap {
        self.result.peak_bytes = self.drive.window.peak.0;
        // What was cancelled there is used beside batches.
        let vain = self.groups[1].vain.saturating_sub(FREE);
        self.result.credits =
            (self.result.credits + seconds(vain) * self.place.cpu_second).min(self.place.cap);
        self.result.seconds = if self.failed { f64::INFINITY } else { seconds(self.now) };
        self.result
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrive(worker) => {
                let ends = self.groups[0].arrive(worker, self.now, self.items);
                self.expect(Side::Local, ends);
            }
            Event::ArrivedAtService(batch) => {
                let Some(SentPiece { first, items, .. }) = self.sent[1].get(&batch).filter(|_| !self.dead)
                else {
                    return;
                };
                let piece = Piece { ticket: 0, batch: batch.0, first: *first, items: *items };
                let ends = self.groups[1].submit(piece, self.now, self.items);
                self.expect(Side::Cloud, ends);
            }
            Event::Replaced(side, worker) => {
                let begun = self.groups[side as usize].next(worker, self.now, self.items);
                self.expect(side, begun);
            }
            Event::Ends(side, Ends { worker, version, .. }) => {
                let group = &mut self.groups[side as usize];
                if let Some((piece, wall, lethal)) = group.finish(worker, version, self.items) {
                    if lethal.is_some() {
                        self.queue.at(self.now + START, Event::Replaced(side, worker));
                    } else {
                        let more = group.next(worker, self.now, self.items);
                        self.expect(side, more);
                    }
                    self.on_piece_done(side, piece, wall, lethal);
                }
            }
            Event::Message(message) => self.messages.push_back(message),
            Event::Free => self.busy = false,
            Event::Tick => self.ticking = false,
            Event::Dies => {
                self.dead = true;
                let until = self.now + of_seconds(self.place.round_trip);
                self.queue.at(until, Event::Message(Message::Gone));
            }
        }
        self.host();
    }

    pub(super) fn expect(&mut self, side: Side, ends: impl IntoIterator<Item = Ends>) {
        for end in ends {
            self.queue.at(end.at, Event::Ends(side, end));
        }
    }

    /// The host does the next thing, if it is free.
    fn host(&mut self) {
        if self.busy {
            return;
        }
        while self.drive.window.take().is_some() {}
        let cost = if let Some(message) = self.messages.pop_front() {
            self.on_message(message)
        } else if let Some(cost) = self.send() {
            cost
        } else {
            self.schedule_tick();
            return;
        };
        while self.drive.window.take().is_some() {}
        self.busy = true;
        self.queue.at(self.now + cost, Event::Free);
    }

    /// The host has nothing to do. The policy may want to look again before the next message.
    fn schedule_tick(&mut self) {
        let Some(policy) = &self.policy else { return };
        if self.ticking || matches!(policy.link(), Link::Left { .. }) {
            return;
        }
        self.ticking = true;
        let pause = policy.pause(seconds(self.now));
        self.queue.at(self.now + of_seconds(pause), Event::Tick);
    }

    pub(super) fn notify_policy(&mut self, event: &PolicyEvent) {
        if let Some(policy) = &mut self.policy {
            policy.see(seconds(self.now), event);
        }
    }
}
