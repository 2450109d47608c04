//! One map in virtual time: the host's threads as one server that does one thing after another, the workers, and the
//! messages between them. Deterministic: the same world, settings and items give the same outcome.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Nanos, Queue, nanos};
use crate::drive::Drive;
use crate::outcome::{Ledger, Outcome};
use crate::pool::Pool;
use crate::settings::Settings;
use crate::shapes::Items;
use crate::worker::{Piece, Worker};
use crate::world::{Start, World};

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A batch reaches a worker.
    Batch { worker: usize, piece: Piece },
    /// A recall reaches a worker.
    Recall { worker: usize, ticket: u64, half: bool },
    /// A worker is through with its batch, if it is still that version of it.
    Finished { worker: usize, version: u32 },
    /// Something reaches the host.
    News(Job),
    /// The host is free again.
    Free,
}

/// What the host does, one after another.
#[derive(Clone, Copy, Debug)]
enum Job {
    Greeted {
        worker: usize,
    },
    Done {
        worker: usize,
        piece: Piece,
        wall: Nanos,
    },
    Returned {
        worker: usize,
        ticket: u64,
        from: u32,
    },
    /// The consumer's thread goes on: reads and sends a batch, or else takes a segment.
    Consume,
    /// The supervisor looks around, if this is still when it wants to.
    Look {
        due: Nanos,
    },
}

/// What the consumer's thread is told of a batch, or of a part of one.
#[derive(Clone, Copy, Debug)]
struct Answer {
    batch: u64,
    first: u64,
    items: u32,
    wall: Nanos,
}

/// Runs a map of `items` to its end.
///
/// # Panics
/// If the engine's rules stand still before the end.
pub fn simulate(world: &World, settings: &Settings, items: &Items) -> Outcome {
    let mut engine = Engine::new(world, settings, items);
    engine.queue_job(0, Job::Consume);
    engine.consuming = true;
    if world.start == Start::Warm {
        // They have greeted long ago; that costs nothing now.
        (0..world.workers).for_each(|worker| engine.pool.greeted(worker, 0));
        engine.requested = world.workers;
    }
    while let Some((at, event)) = engine.queue.pop() {
        engine.happen(at, event);
        if let Some(end) = engine.end {
            return engine.outcome(end);
        }
    }
    panic!("nothing more happens, and {} of {} items are delivered", engine.drive.window.head, items.count());
}

struct Engine<'a> {
    items: &'a Items,
    world: World,
    settings: Settings,
    one_way: Nanos,
    worker_batch: Nanos,
    queue: Queue<Event>,
    workers: Vec<Worker>,
    pool: Pool,
    drive: Drive,
    /// What the host has to do; it is free when that is empty and `busy` is not set.
    jobs: VecDeque<Job>,
    busy: bool,
    /// The host's own time while it does something.
    now: Nanos,
    host_time: Nanos,
    /// The consumer's thread is awake, or has been woken.
    consuming: bool,
    /// It is reading and sending batches, and looks at no answer meanwhile, unless the settings say so.
    reading: bool,
    /// Answers that it has not taken yet.
    inbox: Vec<Answer>,
    /// Workers whose start was asked for, and when the last of them starts.
    requested: usize,
    last_start: Nanos,
    sent: u64,
    received: u64,
    recalls: u64,
    peak_batches: usize,
    ledger: Ledger,
    end: Option<Nanos>,
}

impl<'a> Engine<'a> {
    fn new(world: &World, settings: &Settings, items: &'a Items) -> Self {
        Engine {
            items,
            world: *world,
            settings: *settings,
            one_way: nanos(world.one_way),
            worker_batch: nanos(world.worker_batch),
            queue: Queue::default(),
            workers: (0..world.workers).map(|_| Worker::default()).collect(),
            pool: Pool::new(world.workers, settings),
            drive: Drive::new(settings, world.workers, items.count(), world.bytes),
            jobs: VecDeque::new(),
            busy: false,
            now: 0,
            host_time: 0,
            consuming: false,
            reading: false,
            inbox: Vec::new(),
            requested: 0,
            last_start: 0,
            sent: 0,
            received: 0,
            recalls: 0,
            peak_batches: 0,
            ledger: Ledger::new(items.count()),
            end: None,
        }
    }

    fn happen(&mut self, at: Nanos, event: Event) {
        match event {
            Event::Batch { worker, piece } => {
                let end = self.workers[worker].take(piece, at, self.worker_batch, self.items);
                self.expect(worker, end);
            }
            Event::Recall { worker, ticket, half } => {
                if let Some((from, end)) = self.workers[worker].recall(ticket, half, at, self.items) {
                    self.expect(worker, end);
                    self.answer(at, Job::Returned { worker, ticket, from });
                }
            }
            Event::Finished { worker, version } if self.workers[worker].version == version => {
                let Some((piece, wall)) = self.workers[worker].finish(self.items) else { return };
                self.ledger.ran(piece.first, piece.end());
                self.answer(at, Job::Done { worker, piece, wall });
                let end = self.workers[worker].begin(at, self.worker_batch, self.items);
                self.expect(worker, end);
            }
            Event::Finished { .. } => {}
            Event::News(job) => {
                self.jobs.push_back(job);
                if !self.busy {
                    self.serve(at);
                }
            }
            Event::Free => {
                self.busy = false;
                self.serve(at);
            }
        }
    }

    fn expect(&mut self, worker: usize, end: Option<Nanos>) {
        if let Some(end) = end {
            self.queue.at(end, Event::Finished { worker, version: self.workers[worker].version });
        }
    }

    /// A worker sends something.
    fn answer(&mut self, at: Nanos, job: Job) {
        self.queue.at(at + self.one_way, Event::News(job));
    }

    /// The host will have something to do.
    fn queue_job(&mut self, at: Nanos, job: Job) {
        self.queue.at(at, Event::News(job));
    }

    fn spend(&mut self, cost: Duration) {
        self.now += nanos(cost);
    }

    /// The host does the next thing; it is busy until `now`.
    fn serve(&mut self, at: Nanos) {
        let Some(job) = self.jobs.pop_front() else { return };
        self.now = at;
        match job {
            Job::Greeted { worker } => {
                self.receive();
                self.pool.greeted(worker, self.now);
                self.assign_next();
            }
            Job::Done { worker, piece, wall } => {
                self.receive();
                let batch = self.pool.done(worker, piece.ticket, piece.items, wall, self.now);
                self.assign_next();
                self.inbox.push(Answer { batch, first: piece.first, items: piece.items, wall });
                if !std::mem::replace(&mut self.consuming, true) {
                    self.queue_job(self.now + nanos(self.world.host.wake), Job::Consume);
                }
            }
            Job::Returned { worker, ticket, from } => {
                self.receive();
                self.pool.returned(worker, ticket, from);
                self.assign_next();
            }
            Job::Consume => self.consume(),
            Job::Look { due } if self.pool.next_look == Some(due) => self.watchdog_tick(),
            Job::Look { .. } => {}
        }
        self.host_time += self.now - at;
        self.busy = true;
        self.queue.at(self.now, Event::Free);
    }

    fn receive(&mut self) {
        self.received += 1;
        self.spend(self.world.host.receive);
    }

    fn send(&mut self, event: Event) {
        self.sent += 1;
        self.spend(self.world.host.send);
        self.queue.at(self.now + self.one_way, event);
    }

    /// One step of the consumer's thread; then whoever else waits has a turn.
    fn consume(&mut self) {
        if !self.reading || self.settings.collects_between {
            for Answer { batch, first, items, wall } in self.inbox.drain(..) {
                self.drive.answered(batch, first, items, wall);
            }
            self.reading = true;
        }
        if let Some((batch, first, items)) = self.drive.pull(self.pool.slots(), self.pool.outstanding()) {
            self.spend(self.world.host.item / 2 * items);
            self.pool.submit(batch, first, items, self.now);
            self.assign_next();
        } else {
            self.reading = false;
            if let Some(items) = self.drive.window.take() {
                self.spend(self.world.host.item / 2 * u32::try_from(items).unwrap_or(u32::MAX));
                if self.drive.complete() {
                    self.end = Some(self.now);
                }
            } else if self.inbox.is_empty() {
                self.consuming = false;
                return;
            }
        }
        self.jobs.push_back(Job::Consume);
    }

    /// Gives batches that wait to workers with room, and starts workers where there is work for more.
    fn assign_next(&mut self) {
        while let Some(out) = self.pool.assign_next(self.now) {
            if out.opens {
                self.sent += 1;
                self.spend(self.world.host.send);
            }
            self.send(Event::Batch { worker: out.worker, piece: out.piece });
        }
        self.peak_batches = self.peak_batches.max(self.pool.outstanding());
        if let Start::Spawned { gap, ready } = self.world.start {
            // The supervisor starts them, beside whatever else the host does.
            while self.requested < self.pool.outstanding().min(self.world.workers) {
                self.last_start = self.last_start.max(self.now) + nanos(gap);
                let worker = self.requested;
                self.queue_job(self.last_start + nanos(ready), Job::Greeted { worker });
                self.requested += 1;
            }
        }
        if let Some(due) = self.pool.wants_look(self.now) {
            self.schedule_watchdog(due);
        }
    }

    fn schedule_watchdog(&mut self, due: Nanos) {
        self.pool.next_look = Some(due);
        self.queue_job(due, Job::Look { due });
    }

    fn watchdog_tick(&mut self) {
        let world = self.world;
        self.spend(world.host.look * u32::try_from(world.workers).unwrap_or(u32::MAX));
        let (now, workers, items) = (self.now, &self.workers, self.items);
        let begun = |worker: usize| world.page.then(|| workers[worker].begun(now, items)).flatten();
        let (recalls, pause) = self.pool.look(now, begun);
        for recall in recalls {
            self.recalls += 1;
            self.send(Event::Recall { worker: recall.worker, ticket: recall.ticket, half: recall.half });
        }
        self.schedule_watchdog(self.now + pause);
    }

    fn outcome(&self, end: Nanos) -> Outcome {
        Outcome {
            workers: self.world.workers,
            makespan: end,
            total: self.items.total(),
            longest: self.items.longest(),
            batches: self.drive.batches,
            sent: self.sent,
            received: self.received,
            recalls: self.recalls,
            host_time: self.host_time,
            peak_bytes: self.drive.window.peak.0,
            peak_segments: self.drive.window.peak.1,
            peak_batches: self.peak_batches,
            lost: self.ledger.lost(),
            doubled: self.ledger.doubled() + self.drive.window.doubled,
        }
    }
}
