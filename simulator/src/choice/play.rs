//! One map in one world under LOCAL, CLOUD or ADAPTIVE: the same host, sizing rule, workers and wires for all three; what
//! differs is who says where a batch goes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use fastmap_backends::Targets;
use fastmap_backends::adaptive::policy::{Event as Seen, Link, Options, Policy, Probe, Side, Step};

use super::crew::{Crew, Ends};
use super::ranges::Place;
use crate::clock::{Nanos, Queue, nanos};
use crate::drive::Drive;
use crate::settings::Settings;
use crate::shapes::Items;
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
    /// Credits that it cost.
    pub credits: f64,
    /// Items answered here, and there.
    pub answered: [u64; 2],
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

/// No map takes so many events.
const ENDLESS: u64 = 20_000_000;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A local worker has started.
    Arrive(usize),
    Ends(Side, Ends),
    /// A batch is in the service.
    There(u64),
    /// Something is in the host's hands.
    News(News),
    /// The host is through with what it did.
    Free,
    /// The policy wanted to look again.
    Tick,
    /// The service dies.
    Dies,
}

#[derive(Clone, Copy, Debug)]
enum News {
    Done { side: Side, batch: u64, items: u32, wall: Nanos },
    Lost { batch: u64 },
    Probed,
    Uploading(f64),
    Ready,
    Gone,
}

#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    first: u64,
    items: u32,
    /// Items that each side still owes, and what it has spent.
    owed: [u32; 2],
    wall: [Nanos; 2],
    out: [bool; 2],
    answered: bool,
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
    again: VecDeque<u64>,
    batches: HashMap<u64, Batch>,
    crews: [Crew; 2],
    out: [usize; 2],
    up_free: Nanos,
    down_free: Nanos,
    open: bool,
    dead: bool,
    failed: bool,
    /// First items of batches that were lost.
    lost: HashSet<u64>,
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
            again: VecDeque::new(),
            batches: HashMap::new(),
            crews: [
                Crew::new(place.local, 1.0, overhead + nanos(world.one_way), 100_000),
                Crew::new(place.cloud, place.slowness, CLOUD_OVERHEAD, 200_000),
            ],
            out: [0, 0],
            up_free: 0,
            down_free: 0,
            open: false,
            dead: false,
            failed: false,
            lost: HashSet::new(),
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
                let Batch { first, items, out, .. } = self.batches[&batch];
                if self.dead || !out[1] {
                    return;
                }
                let piece = Piece { ticket: 0, batch, first, items };
                let ends = self.crews[1].submit(piece, self.now, self.items);
                self.expect(Side::Cloud, ends);
            }
            Event::Ends(side, Ends { worker, version, .. }) => {
                let crew = &mut self.crews[side as usize];
                if let Some((piece, wall, more)) = crew.finish(worker, version, self.now, self.items) {
                    self.expect(side, more);
                    self.done(side, piece, wall);
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

    /// A worker is through with a piece of a batch.
    fn done(&mut self, side: Side, piece: Piece, wall: Nanos) {
        let at = side as usize;
        let batch = self.batches.get_mut(&piece.batch).expect("it was sent");
        if !batch.out[at] {
            return;
        }
        batch.owed[at] -= piece.items;
        batch.wall[at] += wall;
        if batch.owed[at] > 0 {
            return;
        }
        let (first, items, wall) = (batch.first, batch.items, batch.wall[at]);
        let done = News::Done { side, batch: piece.batch, items, wall };
        match side {
            Side::Local => {
                let way = nanos(World::local(1).one_way);
                self.queue.at(self.now + way, Event::News(done));
            }
            Side::Cloud if self.dead => {}
            Side::Cloud => {
                // The same first item loses its worker under every policy, the first time.
                let lost = chance(self.place.seed, first) < self.place.lost && self.lost.insert(first);
                let bytes = f64::from(items) * self.place.bytes.1;
                self.down_free = self.down_free.max(self.now) + of_seconds(bytes / self.place.down);
                let at = self.down_free + of_seconds(self.place.round_trip / 2.0);
                let news = if lost { News::Lost { batch: piece.batch } } else { done };
                self.queue.at(at, Event::News(news));
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
            News::Done { side, batch, items, wall } => {
                let at = side as usize;
                let known = self.batches.get_mut(&batch).expect("it was sent");
                if !known.out[at] {
                    return 1_000;
                }
                known.out[at] = false;
                self.out[at] -= 1;
                let bytes = f64::from(items) * self.place.bytes.1;
                if side == Side::Cloud {
                    let charge = seconds(wall) * self.place.cpu_second + bytes * self.place.result_byte;
                    if self.played.credits + charge > self.place.cap {
                        known.out[at] = true;
                        self.out[at] += 1;
                        return self.gone("out of credits");
                    }
                    self.played.credits += charge;
                }
                known.answered = true;
                let (first, other) = (known.first, side.other());
                let twice = known.out[other as usize];
                self.see(&Seen::Answered { batch, side, items, wall: seconds(wall), bytes: bytes as u64 });
                if twice {
                    self.cancel(batch, other);
                }
                self.played.answered[at] += u64::from(items);
                self.drive.answered(batch, first, items, wall);
                let each = u64::from(items) * nanos(host.item);
                each + if side == Side::Cloud { CLOUD_MESSAGE } else { nanos(host.receive) }
            }
            News::Lost { batch } => {
                let Batch { items, out, .. } = self.batches[&batch];
                if out[1] {
                    self.home(batch, true);
                    let twice = self.batches[&batch].out[0];
                    self.see(&Seen::Back { batch, side: Side::Cloud, items, lost: true });
                    if !twice {
                        self.again.push_back(batch);
                    }
                }
                CLOUD_MESSAGE
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

    /// What the service has comes home.
    fn gone(&mut self, why: &str) -> Nanos {
        self.open = false;
        self.dead = true;
        if self.mode == Mode::Cloud {
            self.failed = true;
        }
        self.see(&Seen::Gone { why: why.to_owned() });
        let mut out: Vec<u64> =
            self.batches.iter().filter(|(_, batch)| batch.out[1]).map(|(id, _)| *id).collect();
        out.sort_unstable();
        for batch in out {
            self.home(batch, false);
            let Batch { items, out, .. } = self.batches[&batch];
            self.see(&Seen::Back { batch, side: Side::Cloud, items, lost: false });
            if !out[0] {
                self.again.push_back(batch);
            }
        }
        CLOUD_MESSAGE
    }

    fn home(&mut self, batch: u64, _lost: bool) {
        let known = self.batches.get_mut(&batch).expect("it was sent");
        known.out[1] = false;
        self.out[1] -= 1;
    }

    /// A side need not answer a batch any more.
    fn cancel(&mut self, batch: u64, side: Side) {
        let at = side as usize;
        let known = self.batches.get_mut(&batch).expect("it was sent");
        known.out[at] = false;
        let items = known.items;
        self.out[at] -= 1;
        self.see(&Seen::Back { batch, side, items, lost: false });
        let ends = self.crews[at].cancel(batch, self.now, self.items);
        self.expect(side, ends);
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
        able && self.out[side as usize] < self.slots(side)
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
        while let Some(batch) = self.again.front() {
            if self.batches[batch].answered {
                self.again.pop_front();
            } else {
                break;
            }
        }
        let side = self.side(now);
        if let Some(side) = side
            && let Some((batch, first, items)) = self.pull(side)
        {
            return Some(self.hand(batch, first, items, side));
        }
        // Nothing can be pulled, or no place is worth it.
        let policy = self.policy.as_mut()?;
        let local_idle =
            self.out[0] < self.place.local && side != Some(Side::Cloud) || self.drive.left() == 0;
        let local_idle = local_idle && self.out[0] < self.place.local && self.again.is_empty();
        let cloud_idle = self.open && self.out[1] < self.place.cloud && self.drive.left() == 0;
        if self.drive.left() == 0 && !self.place.told {
            policy.end_input();
        }
        let repeat = policy.repeat(now, local_idle, cloud_idle)?;
        let Batch { first, items, .. } = self.batches[&repeat.batch];
        self.played.repeated += 1;
        Some(self.hand(repeat.batch, first, items, repeat.to))
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
        policy.place(now, local.then(|| work(&self.targets[0])), cloud.then(|| work(&self.targets[1])))
    }

    fn pull(&mut self, side: Side) -> Option<(u64, u64, u32)> {
        if let Some(batch) = self.again.pop_front() {
            let Batch { first, items, .. } = self.batches[&batch];
            return Some((batch, first, items));
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
        self.drive.pull(slots, self.out[0] + self.out[1])
    }

    /// Gives a batch to a side.
    fn hand(&mut self, batch: u64, first: u64, items: u32, side: Side) -> Nanos {
        let at = side as usize;
        let host = World::local(1).host;
        let known = self.batches.entry(batch).or_insert(Batch { first, items, ..Batch::default() });
        known.owed[at] = items;
        known.wall[at] = 0;
        known.out[at] = true;
        self.out[at] += 1;
        let bytes = f64::from(items) * self.place.bytes.0;
        self.see(&Seen::Sent { batch, side, first, items, bytes: bytes as u64 });
        let encode = u64::from(items) * nanos(host.item);
        match side {
            Side::Local => {
                let piece = Piece { ticket: 0, batch, first, items };
                let cost = encode + nanos(host.send);
                let ends = self.crews[0].submit(piece, self.now + cost, self.items);
                self.expect(Side::Local, ends);
                cost
            }
            Side::Cloud => {
                let cost = encode + CLOUD_MESSAGE;
                self.up_free = self.up_free.max(self.now + cost) + of_seconds(bytes / self.place.up);
                self.queue.at(self.up_free + of_seconds(self.place.round_trip / 2.0), Event::There(batch));
                cost
            }
        }
    }
}

/// A number below 1 that the seed and a count name.
fn chance(seed: u64, count: u64) -> f64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count.wrapping_mul(0xd1b5_4a32_d192_ed03);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 32;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}
