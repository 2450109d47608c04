//! Who has which batch: the decisions of `local/pool.rs`, `run.rs` and `steal.rs`, without their channels.
//! The engine brings the news, and sends what is decided here.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::{Nanos, nanos};
use crate::settings::{Depth, Settings, Steal};
use crate::worker::Piece;

/// How often the supervisor looks around at least, while there are runs.
const LOOK: Nanos = 750_000_000;

#[derive(Debug)]
pub(crate) struct Pool {
    members: Vec<Member>,
    /// Greeted members by how much they hold.
    by_load: BTreeSet<(usize, usize)>,
    idle: usize,
    pending: VecDeque<Piece>,
    in_flight: usize,
    tickets: u64,
    depth: Depth,
    steal: Option<Steal>,
    /// Moving means over answered batches.
    batch_time: Option<Nanos>,
    item_time: Option<Nanos>,
    /// When the last batch was submitted.
    submitted: Nanos,
    pub(crate) next_look: Option<Nanos>,
}

#[derive(Debug, Default)]
struct Member {
    assigned: VecDeque<AssignedPiece>,
    /// When it last answered, or got work while idle.
    progress: Nanos,
    /// The function was opened there.
    opened: bool,
}

#[derive(Debug)]
struct AssignedPiece {
    piece: Piece,
    limit: u32,
    recalled: bool,
}

/// What a worker is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandOut {
    pub(crate) worker: usize,
    pub(crate) piece: Piece,
    /// The function goes first.
    pub(crate) opens: bool,
}

/// What is asked back of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recall {
    pub(crate) worker: usize,
    pub(crate) ticket: u64,
    pub(crate) half: bool,
}

impl Pool {
    pub(crate) fn new(workers: usize, settings: &Settings) -> Self {
        Pool {
            members: (0..workers).map(|_| Member::default()).collect(),
            by_load: BTreeSet::new(),
            idle: 0,
            pending: VecDeque::new(),
            in_flight: 0,
            tickets: 0,
            depth: settings.depth,
            steal: settings.steal,
            batch_time: None,
            item_time: None,
            submitted: 0,
            next_look: None,
        }
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.pending.len() + self.in_flight
    }

    fn depth(&self) -> usize {
        self.depth.of(self.batch_time.map(Duration::from_nanos))
    }

    /// Batches that the run may hold.
    pub(crate) fn slots(&self) -> usize {
        self.members.len() * self.depth()
    }

    fn piece(&mut self, batch: u64, first: u64, items: u32) -> Piece {
        self.tickets += 1;
        Piece { ticket: self.tickets, batch, first, items }
    }

    pub(crate) fn submit(&mut self, batch: u64, first: u64, items: u32, now: Nanos) {
        self.submitted = now;
        let piece = self.piece(batch, first, items);
        let at = self.pending.partition_point(|waiting| waiting.first <= first);
        self.pending.insert(at, piece);
    }

    pub(crate) fn greeted(&mut self, worker: usize, now: Nanos) {
        self.members[worker].progress = now;
        self.by_load.insert((0, worker));
        self.idle += 1;
    }

    fn reload(&mut self, worker: usize, change: impl FnOnce(&mut VecDeque<AssignedPiece>)) {
        let assigned = &mut self.members[worker].assigned;
        let before = assigned.len();
        change(assigned);
        let after = assigned.len();
        if before != after {
            self.by_load.remove(&(before, worker));
            self.by_load.insert((after, worker));
            self.idle = self.idle + usize::from(after == 0) - usize::from(before == 0);
        }
    }

    /// A worker has answered a batch; gives the batch's number.
    pub(crate) fn done(&mut self, worker: usize, ticket: u64, items: u32, wall: Nanos, now: Nanos) -> u64 {
        let assigned = &self.members[worker].assigned;
        let at = assigned
            .iter()
            .position(|assigned| assigned.piece.ticket == ticket)
            .expect("a worker answers what it holds");
        let AssignedPiece { piece, limit, .. } = &assigned[at];
        assert_eq!(
            *limit, items,
            "what was given back is known before the rest is answered: one channel, in order"
        );
        let batch = piece.batch;
        self.members[worker].progress = now;
        self.reload(worker, |assigned| {
            assigned.remove(at);
        });
        self.in_flight -= 1;
        let mean = |old: Option<Nanos>, new: Nanos| Some(old.map_or(new, |old| (old * 3 + new) / 4));
        self.batch_time = mean(self.batch_time, wall);
        self.item_time = mean(self.item_time, wall / u64::from(items));
        batch
    }

    /// A worker has given back the items of a batch from `from` on.
    pub(crate) fn returned(&mut self, worker: usize, ticket: u64, from: u32) {
        let member = &mut self.members[worker];
        let Some(at) = member.assigned.iter().position(|assigned| assigned.piece.ticket == ticket) else {
            return;
        };
        let assigned = &mut member.assigned[at];
        let (piece, limit) = (assigned.piece, assigned.limit);
        assigned.limit = from;
        assigned.recalled = false;
        if from == 0 {
            self.reload(worker, |assigned| {
                assigned.remove(at);
            });
            self.in_flight -= 1;
        }
        let rest = self.piece(piece.batch, piece.first + u64::from(from), limit - from);
        self.pending.push_front(rest);
    }

    /// Gives the first batch that waits to the worker that holds the fewest, if one has room.
    pub(crate) fn assign_next(&mut self, now: Nanos) -> Option<HandOut> {
        let (load, worker) = *self.by_load.first()?;
        if load >= self.depth() {
            return None;
        }
        let piece = self.pending.pop_front()?;
        self.in_flight += 1;
        let member = &mut self.members[worker];
        if load == 0 {
            member.progress = now;
        }
        let opens = !std::mem::replace(&mut member.opened, true);
        self.reload(worker, |assigned| {
            assigned.push_back(AssignedPiece { piece, limit: piece.items, recalled: false });
        });
        Some(HandOut { worker, piece, opens })
    }

    /// When the supervisor is to look, where somebody is idle while others have work and it does not look about then anyway.
    pub(crate) fn wants_look(&self, now: Nanos) -> Option<Nanos> {
        let stuck = nanos(self.steal?.stuck);
        let soon = self.next_look.is_some_and(|look| look <= now + 2 * stuck);
        (self.idle > 0 && self.outstanding() > 0 && !soon).then_some(now + stuck)
    }

    /// Asks back what could run on an idle worker instead; says after how long to look again. `begun` tells which batch
    /// a worker runs and how many of its items have begun, where the host can see that.
    pub(crate) fn look(
        &mut self,
        now: Nanos,
        begun: impl Fn(usize) -> Option<(u64, u32)>,
    ) -> (Vec<Recall>, Nanos) {
        let mut recalls = Vec::new();
        let Some(steal) = self.steal else { return (recalls, LOOK) };
        if self.idle == 0 || !self.pending.is_empty() {
            return (recalls, LOOK);
        }
        let mut asked = self
            .members
            .iter()
            .flat_map(|member| &member.assigned)
            .filter(|assigned| assigned.recalled)
            .count();
        let feeding = now - self.submitted < nanos(steal.stuck);
        let mut later = feeding;
        let item_time = self.item_time.unwrap_or_default();
        for (worker, member) in self.members.iter_mut().enumerate() {
            if member.assigned.is_empty() {
                continue;
            }
            let waiting = now - member.progress;
            if feeding && waiting < nanos(steal.left_alone) {
                continue;
            }
            let stuck = waiting > nanos(steal.stuck);
            let running = begun(worker);
            // From the back: what would begin last.
            for (at, assigned) in member.assigned.iter_mut().enumerate().rev() {
                if assigned.recalled {
                    continue;
                }
                let begun = match running {
                    Some((ticket, items)) if ticket == assigned.piece.ticket => items,
                    _ => u32::from(at == 0),
                };
                let left = assigned.limit.saturating_sub(begun);
                if left == 0 {
                    continue;
                }
                later = true;
                if asked >= self.idle || !(stuck || item_time * u64::from(left) > nanos(steal.worth)) {
                    continue;
                }
                assigned.recalled = true;
                asked += 1;
                recalls.push(Recall { worker, ticket: assigned.piece.ticket, half: left < assigned.limit });
            }
            if later && asked >= self.idle {
                break;
            }
        }
        (recalls, if later { nanos(steal.stuck) } else { LOOK })
    }
}
