//! One map in one world under LOCAL, CLOUD or ADAPTIVE: the same host, sizing rule, workers and wires for all three; what
//! differs is who says where a batch goes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use fastmap_backends::adaptive::in_flight::{Cancel, InFlight};
use fastmap_backends::adaptive::policy::{Event as Seen, Link, Options, Policy, Probe, Repeat, Side, Step};
use fastmap_backends::losses::{self, Piece as Part};
use fastmap_backends::{
    Batch, BatchBuilder, BatchId, Completion, ExitReason, JobId, Outcome, Results, Running, Targets,
    WorkerExit, WorkerLoss,
};

use super::crew::{Crew, Ends};
use super::ranges::Place;
use crate::clock::{Nanos, Queue, nanos};
use crate::drive::Drive;
use crate::settings::Settings;
use crate::shapes::{Fault, Items};
use crate::worker::Piece;
use crate::world::World;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// All here.
    Local,
    /// All there.
    Cloud,
    /// The policy.
    Adaptive(Options),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Played {
    /// Seconds; infinite where it did not come to its end (CLOUD without credits, or without a service).
    pub seconds: f64,
    /// Credits that its answers cost, and what ended its workers.
    pub credits: f64,
    /// Credits for what was cancelled.
    pub beside: f64,
    /// Items answered here, and there.
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
    pub held: f64,
    /// A run was opened.
    pub opened: bool,
    /// Events played.
    pub events: u64,
}

/// Host time for a batch of the service, to send it and to take its answer: HTTP, signatures, compression are other
/// threads' work.
const CLOUD_MESSAGE: Nanos = 20_000;
/// What a worker there spends on a batch beside its items.
const CLOUD_OVERHEAD: Nanos = 100_000;
/// Pieces in which an upload is told of.
const PART: f64 = 1e6;

/// Another worker takes the place of a dead one.
const START: Nanos = 10_000_000;
/// What a run in the service may use for nothing that is answered.
const FREE: Nanos = 1_000_000_000;

/// No map takes so many events.
const ENDLESS: u64 = 20_000_000;

#[derive(Clone, Debug)]
enum Event {
    /// A local worker has started.
    Arrive(usize),
    Ends(Side, Ends),
    /// A worker is there again, behind one that died.
    Replaced(Side, usize),
    /// A batch is in the service.
    There(BatchId),
    /// Something is in the host's hands.
    News(News),
    /// The host is through with what it did.
    Free,
    /// The policy wanted to look again.
    Tick,
    /// The service dies.
    Dies,
}

#[derive(Clone, Debug)]
enum News {
    /// What came of a batch, or of a part of it, which has cost so much of a worker's time there.
    Landed {
        side: Side,
        told: Vec<Told>,
        spent: Nanos,
    },
    Probed,
    Uploading(f64),
    Ready,
    Gone,
}

/// Items of a batch, and what came of them.
#[derive(Clone, Copy, Debug)]
struct Told {
    batch: BatchId,
    first: u64,
    items: u32,
    attempt: u32,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Done(Nanos),
    /// The item with that index ended its worker.
    Lost(u64),
    /// The agent that had it is gone.
    Agent,
}

/// A batch, or a piece of a copy, on a side.
#[derive(Clone, Debug, Default)]
struct Sent {
    first: u64,
    items: u32,
    attempt: u32,
    /// Items of it that workers are through with, and their time; what came of them, where some were lost.
    covered: u32,
    wall: Nanos,
    parts: Vec<Told>,
    lost: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the play")]
struct Stage<'a> {
    place: &'a Place,
    items: &'a Items,
    mode: Mode,
    policy: Option<Policy>,
    targets: [Targets; 2],
    queue: Queue<Event>,
    now: Nanos,
    busy: bool,
    ticking: bool,
    inbox: VecDeque<News>,
    drive: Drive,
    again: BTreeMap<u64, Batch>,
    held: InFlight,
    sent: [HashMap<BatchId, Sent>; 2],
    crews: [Crew; 2],
    up_free: Nanos,
    down_free: Nanos,
    open: bool,
    dead: bool,
    failed: bool,
    /// First items of batches that were lost.
    lost: HashSet<u64>,
    /// Batches of the service whose answers are on their way, and waited for.
    due: HashSet<BatchId>,
    played: Played,
}

fn seconds(now: Nanos) -> f64 {
    now as f64 / 1e9
}

fn of_seconds(seconds: f64) -> Nanos {
    if seconds.is_finite() { (seconds * 1e9) as Nanos } else { Nanos::MAX / 4 }
}

/// What a batch for the service should be: it must outweigh its way, which four places a worker have to hide.
fn far_targets(round_trip: f64) -> Targets {
    let way = Duration::from_secs_f64(round_trip);
    let far = Settings::local().far(5.0, way).targets;
    let work = far.work.max(way / 2);
    Targets { work, least: work / 10, bytes: 1 << 20 }
}

/// Plays a map to its end.
///
/// # Panics
/// If the rules stand still before the end: the message names the world.
pub fn play(place: &Place, items: &Items, mode: Mode) -> Played {
    let mut stage = Stage::new(place, items, mode);
    stage.begin();
    while let Some((at, event)) = stage.queue.pop() {
        stage.now = at;
        stage.played.events += 1;
        stage.happen(event);
        assert!(stage.played.events < ENDLESS, "{mode:?} comes to no end in {place:?}");
        if stage.drive.complete() || stage.failed {
            return stage.end();
        }
    }
    panic!("nothing more happens under {mode:?} in {place:?}");
}

impl<'a> Stage<'a> {
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
                Some(Policy::new(options, place.told.then_some(place.items), place.local as u32))
            }
            _ => None,
        };
        let overhead = nanos(world.worker_batch);
        Stage {
            place,
            items,
            mode,
            policy,
            targets: [settings.targets, far],
            queue: Queue::default(),
            now: 0,
            busy: false,
            ticking: false,
            inbox: VecDeque::new(),
            drive: Drive::new(&Settings { targets, ..settings }, workers, items.count(), bytes),
            again: BTreeMap::new(),
            held: InFlight::default(),
            sent: [HashMap::new(), HashMap::new()],
            crews: [
                Crew::new(place.local, 1.0, overhead + nanos(world.one_way), 100_000),
                Crew::new(place.cloud, place.slowness, CLOUD_OVERHEAD, 200_000),
            ],
            up_free: 0,
            down_free: 0,
            open: false,
            dead: false,
            failed: false,
            lost: HashSet::new(),
            due: HashSet::new(),
            played: Played::default(),
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
            let _empty = self.crews[1].arrive(worker, 0, self.items);
        }
        if self.mode == Mode::Cloud {
            self.probe();
        }
        if self.place.dies.is_finite() {
            self.queue.at(of_seconds(self.place.dies), Event::Dies);
        }
        self.host();
    }

    fn end(mut self) -> Played {
        self.played.held = self.drive.window.peak.0;
        // What was cancelled there is used beside batches.
        let vain = self.crews[1].vain.saturating_sub(FREE);
        self.played.credits =
            (self.played.credits + seconds(vain) * self.place.cpu_second).min(self.place.cap);
        self.played.seconds = if self.failed { f64::INFINITY } else { seconds(self.now) };
        self.played
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(worker) => {
                let ends = self.crews[0].arrive(worker, self.now, self.items);
                self.expect(Side::Local, ends);
            }
            Event::There(batch) => {
                let Some(Sent { first, items, .. }) = self.sent[1].get(&batch).filter(|_| !self.dead) else {
                    return;
                };
                let piece = Piece { ticket: 0, batch: batch.0, first: *first, items: *items };
                let ends = self.crews[1].submit(piece, self.now, self.items);
                self.expect(Side::Cloud, ends);
            }
            Event::Replaced(side, worker) => {
                let begun = self.crews[side as usize].next(worker, self.now, self.items);
                self.expect(side, begun);
            }
            Event::Ends(side, Ends { worker, version, .. }) => {
                let crew = &mut self.crews[side as usize];
                if let Some((piece, wall, lethal)) = crew.finish(worker, version, self.items) {
                    if lethal.is_some() {
                        self.queue.at(self.now + START, Event::Replaced(side, worker));
                    } else {
                        let more = crew.next(worker, self.now, self.items);
                        self.expect(side, more);
                    }
                    self.done(side, piece, wall, lethal);
                }
            }
            Event::News(news) => self.inbox.push_back(news),
            Event::Free => self.busy = false,
            Event::Tick => self.ticking = false,
            Event::Dies => {
                self.dead = true;
                let until = self.now + of_seconds(self.place.round_trip);
                self.queue.at(until, Event::News(News::Gone));
            }
        }
        self.host();
    }

    fn expect(&mut self, side: Side, ends: impl IntoIterator<Item = Ends>) {
        for end in ends {
            self.queue.at(end.at, Event::Ends(side, end));
        }
    }

    /// A worker is through with a piece of a batch, or dead of an item of it.
    fn done(&mut self, side: Side, piece: Piece, wall: Nanos, lethal: Option<u64>) {
        let name = BatchId(piece.batch);
        let Some(sent) = self.sent[side as usize].get_mut(&name) else { return };
        let attempt = sent.attempt;
        let part = |what| Told { batch: name, first: piece.first, items: piece.items, attempt, what };
        sent.covered += piece.items;
        sent.wall += wall;
        let (whole, spent) = (sent.covered == sent.items, sent.wall);
        let mut told = Vec::new();
        match (lethal, side) {
            (Some(item), Side::Local) => {
                sent.lost = true;
                told.push(part(What::Lost(item)));
            }
            (Some(item), Side::Cloud) => {
                sent.lost = true;
                sent.parts.push(part(What::Lost(item)));
            }
            (None, _) => sent.parts.push(part(What::Done(wall))),
        }
        self.played.deaths += u64::from(lethal.is_some());
        if whole {
            let sent = self.sent[side as usize].remove(&name).expect("it was just seen");
            let Sent { first, items, wall, .. } = sent;
            // Parts of which none is lost come as one answer.
            match sent.lost {
                true => told.extend(sent.parts),
                false => told.push(Told { batch: name, first, items, attempt, what: What::Done(wall) }),
            }
        }
        match side {
            Side::Local if told.is_empty() => {}
            Side::Local => {
                let way = nanos(World::local(1).one_way);
                self.queue.at(self.now + way, Event::News(News::Landed { side, told, spent }));
            }
            Side::Cloud if self.dead || !whole => {}
            Side::Cloud => {
                self.due.insert(name);
                let first = told.iter().map(|part| part.first).min().unwrap_or(0);
                // The same first item loses its worker under every policy, the first time.
                if chance(self.place.seed, first) < self.place.lost && self.lost.insert(first) {
                    for part in &mut told {
                        part.what = What::Agent;
                    }
                }
                let answered = |part: &Told| if matches!(part.what, What::Lost(_)) { 0 } else { part.items };
                let bytes = f64::from(told.iter().map(answered).sum::<u32>()) * self.place.bytes.1;
                self.down_free = self.down_free.max(self.now) + of_seconds(bytes / self.place.down);
                let at = self.down_free + of_seconds(self.place.round_trip / 2.0);
                self.queue.at(at, Event::News(News::Landed { side, told, spent }));
            }
        }
    }

    /// The host does the next thing, if it is free.
    fn host(&mut self) {
        if self.busy {
            return;
        }
        while self.drive.window.take().is_some() {}
        let cost = if let Some(news) = self.inbox.pop_front() {
            self.hear(news)
        } else if let Some(cost) = self.send() {
            cost
        } else {
            self.rest();
            return;
        };
        while self.drive.window.take().is_some() {}
        self.busy = true;
        self.queue.at(self.now + cost, Event::Free);
    }

    /// There is nothing to do: the policy may want to look again without news.
    fn rest(&mut self) {
        let Some(policy) = &self.policy else { return };
        if self.ticking || matches!(policy.link(), Link::Left { .. }) {
            return;
        }
        self.ticking = true;
        let pause = policy.pause(seconds(self.now));
        self.queue.at(self.now + of_seconds(pause), Event::Tick);
    }

    fn see(&mut self, event: &Seen) {
        if let Some(policy) = &mut self.policy {
            policy.see(seconds(self.now), event);
        }
    }

    /// Takes in news; what it costs the host.
    fn hear(&mut self, news: News) -> Nanos {
        let host = World::local(1).host;
        match news {
            News::Landed { side, told, spent } => {
                let (mut cost, mut charged) = (0, spent);
                for part in told {
                    // Where nobody waits for it any more, nobody pays.
                    match self.landed(side, part, charged) {
                        Some(more) => (cost, charged) = (cost + more, 0),
                        None if self.dead && side == Side::Cloud => return CLOUD_MESSAGE,
                        None => {}
                    }
                }
                (cost + if side == Side::Cloud { CLOUD_MESSAGE } else { nanos(host.receive) }).max(1_000)
            }
            News::Probed => {
                let place = self.place;
                let probe = Probe {
                    round_trip: place.round_trip,
                    upload: place.upload as u64,
                    cpu_second: place.cpu_second,
                    result_byte: place.result_byte,
                    spendable: place.cap.min(1e12),
                };
                self.see(&Seen::Probed(probe));
                if self.mode == Mode::Cloud {
                    self.open();
                }
                CLOUD_MESSAGE
            }
            News::Uploading(left) => {
                self.see(&Seen::Uploading { left: left as u64 });
                1_000
            }
            News::Ready => {
                if self.dead {
                    return 0;
                }
                self.open = true;
                self.played.opened = true;
                self.see(&Seen::Ready { workers: self.place.cloud as u32 });
                CLOUD_MESSAGE
            }
            News::Gone => self.gone("the service is gone"),
        }
    }

    /// What came of some items, as ADAPTIVE's run takes it; what it costs the host, where it was waited for.
    fn landed(&mut self, side: Side, told: Told, spent: Nanos) -> Option<Nanos> {
        let Told { batch, first, items, attempt, what } = told;
        let at = side as usize;
        let mut answered = 0;
        let (outcome, accuses, lost) = match what {
            What::Done(wall) => {
                answered = items;
                let wall = Duration::from_nanos(wall);
                (Outcome::Done(Results { wall, ..Results::default() }), false, false)
            }
            What::Lost(item) => {
                let loss =
                    WorkerLoss { running: Running::Item((item - first) as u32), death: self.death(item) };
                let accuses = losses::accuses(&loss);
                let lost = !accuses || self.played.answered[at] == 0;
                (
                    Outcome::Lost(nothing(batch, first, items).piece(batch, 0, items, attempt), loss),
                    accuses,
                    lost,
                )
            }
            What::Agent => {
                (Outcome::Returned(nothing(batch, first, items).piece(batch, 0, items, attempt)), false, true)
            }
        };
        let bytes = f64::from(answered) * self.place.bytes.1;
        if side == Side::Cloud && !matches!(what, What::Agent) {
            let charge = seconds(spent) * self.place.cpu_second + bytes * self.place.result_byte;
            if !self.due.contains(&batch) {
                self.played.beside += charge;
                return None;
            }
            if self.played.credits + charge > self.place.cap {
                self.gone("out of credits");
                return None;
            }
            self.played.credits += charge;
        }
        let landed = self.held.landed(side, Completion { batch, first, items, outcome }, accuses);
        let of = landed.of?;
        let event = match what {
            What::Done(wall) => {
                Seen::Answered { batch: of, side, items, wall: seconds(wall), bytes: bytes as u64 }
            }
            What::Lost(_) | What::Agent => Seen::Back { batch: of, side, items, lost },
        };
        for event in landed.seen(side, event) {
            self.see(&event);
        }
        for cancel in landed.cancel {
            self.cancel(&cancel);
        }
        for (side, completion) in landed.completions {
            self.take(side, completion);
        }
        Some(u64::from(items) * nanos(World::local(1).host.item))
    }

    /// How an item ends its worker.
    fn death(&self, item: u64) -> WorkerExit {
        let cause = match self.items.first_fault(item, item + 1) {
            Some((_, Fault::Hangs)) => ExitReason::Timeout(Duration::from_secs_f64(self.place.item_timeout)),
            _ => ExitReason::Signal(6),
        };
        WorkerExit { worker: String::new(), pid: 0, cause, refused: None, stderr: Vec::new() }
    }

    /// As the host's adapter takes a completion.
    fn take(&mut self, side: Side, completion: Completion) {
        let Completion { batch, first, items, outcome } = completion;
        match outcome {
            Outcome::Done(results) => {
                self.played.answered[side as usize] += u64::from(items);
                self.drive.answered(batch.0, first, items, nanos(results.wall));
            }
            Outcome::Returned(rest) => {
                // Two parts of one batch may come back, and here a name tells what is on its way.
                self.drive.back(batch.0, items);
                let name = BatchId(self.drive.name(items));
                self.again.insert(first, rest.piece(name, 0, items, rest.attempt()));
            }
            Outcome::Lost(lost, loss) => {
                self.drive.back(batch.0, items);
                for part in losses::after_loss(lost.items(), lost.attempt(), 0, &loss) {
                    match part {
                        Part::Again(range, attempt) => {
                            let name = BatchId(self.drive.name(range.end - range.start));
                            let piece = lost.piece(name, range.start, range.end, attempt);
                            self.again.insert(piece.first(), piece);
                        }
                        Part::Answer(item, _) => {
                            self.played.failed += 1;
                            self.drive.failed(first + u64::from(item));
                        }
                    }
                }
            }
        }
    }

    /// What the service has comes home.
    fn gone(&mut self, why: &str) -> Nanos {
        self.open = false;
        self.dead = true;
        if self.mode == Mode::Cloud {
            self.failed = true;
        }
        self.see(&Seen::Gone { why: why.to_owned() });
        self.sent[1].clear();
        self.due.clear();
        for (batch, items, completions) in self.held.withdraw_side(Side::Cloud) {
            self.see(&Seen::Back { batch, side: Side::Cloud, items, lost: false });
            for completion in completions {
                self.take(Side::Local, completion);
            }
        }
        CLOUD_MESSAGE
    }

    /// A side need not answer a batch any more.
    fn cancel(&mut self, cancel: &Cancel) {
        let at = cancel.side as usize;
        for name in &cancel.names {
            self.due.remove(name);
            if self.sent[at].remove(name).is_some() {
                let ends = self.crews[at].cancel(name.0, self.now, self.items);
                self.expect(cancel.side, ends);
            }
        }
    }

    fn probe(&mut self) {
        let at = self.now + of_seconds(2.0 * self.place.round_trip);
        self.queue.at(at, Event::News(News::Probed));
    }

    /// Uploads what is missing and opens the run.
    fn open(&mut self) {
        let place = self.place;
        let mut at = seconds(self.now);
        self.played.uploaded = place.upload;
        let mut left = place.upload;
        while left > 0.0 {
            let part = left.min(PART);
            at += part / place.up;
            left -= part;
            self.queue.at(of_seconds(at), Event::News(News::Uploading(left)));
        }
        if place.upload > 0.0 {
            at += place.round_trip;
        }
        at += place.round_trip + place.opening;
        self.queue.at(of_seconds(at), Event::News(News::Ready));
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
        able && self.held.count(side) < self.slots(side)
    }

    /// Sends a batch, if there is one and a place for it; what it costs the host.
    fn send(&mut self) -> Option<Nanos> {
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
            return Some(self.hand(batch, side));
        }
        // Nothing can be pulled, or no place is worth it.
        let policy = self.policy.as_mut()?;
        let (here, there) = (self.held.count(Side::Local), self.held.count(Side::Cloud));
        let local_idle = here < self.place.local && side != Some(Side::Cloud) || self.drive.left() == 0;
        let local_idle = local_idle && here < self.place.local && self.again.is_empty();
        let cloud_idle = self.open && there < self.place.cloud && self.drive.left() == 0;
        if self.drive.left() == 0 && !self.place.told {
            policy.end_input();
        }
        let Repeat { batch, to, pieces } = policy.repeat(now, local_idle, cloud_idle)?;
        let free = self.slots(to) - self.held.count(to).min(self.slots(to));
        let Some(copies) = self.held.copy(batch, to, pieces.min(free as u32)) else {
            if let Some(policy) = &mut self.policy {
                policy.not_repeated(batch);
            }
            return Some(1_000);
        };
        self.played.repeated += 1;
        let items = copies.iter().map(Batch::items).sum::<u32>();
        let bytes = (f64::from(items) * self.place.bytes.0) as u64;
        self.see(&Seen::Sent { batch, side: to, first: copies[0].first(), items, bytes });
        Some(copies.iter().map(|copy| self.carry(copy, to)).sum())
    }

    fn side(&mut self, now: f64) -> Option<Side> {
        let (local, cloud) = (self.has_place(Side::Local), self.has_place(Side::Cloud));
        let Some(policy) = &mut self.policy else {
            return if local { Some(Side::Local) } else { cloud.then_some(Side::Cloud) };
        };
        if self.drive.left() == 0 && self.again.is_empty() {
            return None;
        }
        let work = |targets: &Targets| targets.work.as_secs_f64();
        let (here, there) = (local.then(|| work(&self.targets[0])), cloud.then(|| work(&self.targets[1])));
        match self.again.first_key_value().is_some_and(|(_, batch)| batch.attempt() > 0) {
            true => policy.place_again(now, here, there),
            false => policy.place(now, here, there),
        }
    }

    fn pull(&mut self, side: Side) -> Option<Batch> {
        if let Some((_, batch)) = self.again.pop_first() {
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
        let out = self.held.count(Side::Local) + self.held.count(Side::Cloud);
        let (batch, first, items) = self.drive.pull(slots, out)?;
        Some(nothing(BatchId(batch), first, items))
    }

    /// Gives a batch to a side; what it costs the host.
    fn hand(&mut self, batch: Batch, side: Side) -> Nanos {
        let (first, items) = (batch.first(), batch.items());
        let bytes = (f64::from(items) * self.place.bytes.0) as u64;
        self.see(&Seen::Sent { batch: batch.id().0, side, first, items, bytes });
        let cost = self.carry(&batch, side);
        self.held.submitted(batch, side);
        cost
    }

    /// A batch, or a piece of a copy, is on its way to a side.
    fn carry(&mut self, batch: &Batch, side: Side) -> Nanos {
        let host = World::local(1).host;
        let (name, first, items, attempt) = (batch.id(), batch.first(), batch.items(), batch.attempt());
        self.sent[side as usize].insert(name, Sent { first, items, attempt, ..Sent::default() });
        let encode = u64::from(items) * nanos(host.item);
        match side {
            Side::Local => {
                let piece = Piece { ticket: 0, batch: name.0, first, items };
                let cost = encode + nanos(host.send);
                let ends = self.crews[0].submit(piece, self.now + cost, self.items);
                self.expect(Side::Local, ends);
                cost
            }
            Side::Cloud => {
                let cost = encode + CLOUD_MESSAGE;
                let bytes = f64::from(items) * self.place.bytes.0;
                self.up_free = self.up_free.max(self.now + cost) + of_seconds(bytes / self.place.up);
                self.queue.at(self.up_free + of_seconds(self.place.round_trip / 2.0), Event::There(name));
                cost
            }
        }
    }
}

/// A batch whose items are one byte each: here it matters which they are, and not what is in them.
fn nothing(name: BatchId, first: u64, items: u32) -> Batch {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().extend(std::iter::repeat_n(0, items as usize));
    builder.added(items);
    builder.finish(JobId(0), name, first, 0)
}

/// A number below 1 that the seed and a count name.
fn chance(seed: u64, count: u64) -> f64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count.wrapping_mul(0xd1b5_4a32_d192_ed03);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 32;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}
