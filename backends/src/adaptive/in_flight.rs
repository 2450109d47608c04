//! What the two runs have: each batch that is out, what of it is still owed, and copies that race each other.
//! Kept by `run`, and played by the simulator; knows no policy.

use std::collections::{BTreeMap, HashMap};

use super::policy::{Event, Side};
use crate::model::batch::Batch;
use crate::model::completion::{Completion, Outcome};
use crate::model::death::{Running, WorkerLoss};
use crate::model::ids::BatchId;

/// Names of copies begin here: no host's adapter counts so far.
const COPIES: u64 = 1 << 62;

/// A batch's name and the index of its first item: a part that was given back goes out again under its batch's name.
type Key = (BatchId, u64);

/// Consecutive items: the first one's index, and how many.
type Stretch = (u64, u32);

/// A batch as it was submitted.
#[derive(Debug)]
struct Out {
    batch: Batch,
    /// What it is called on each side that has it, and which of its items that name has: a copy may be in pieces.
    names: [Vec<(BatchId, Stretch)>; 2],
    /// Stretches that each side has not answered.
    owed: [Vec<Stretch>; 2],
    /// Answers of each side, kept until one has all, while both have it.
    parts: [Vec<Completion>; 2],
}

/// What a completion comes to.
#[derive(Debug, Default)]
pub struct CopyOutcome {
    /// For the host's adapter, each with the side that it is from.
    pub completions: Vec<(Side, Completion)>,
    /// What sides need not answer any more.
    pub cancel: Vec<Cancel>,
    /// The batch's name, if it was waited for.
    pub of: Option<u64>,
}

/// What a side need not answer any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// Which side.
    pub side: Side,
    /// Its names there.
    pub names: Vec<BatchId>,
    /// Items that it still owed.
    pub items: u32,
}

/// All that is out.
#[derive(Debug, Default)]
pub struct InFlight {
    out: BTreeMap<Key, Out>,
    /// Copies, by their names.
    copies: HashMap<BatchId, Key>,
    named: u64,
    count: [usize; 2],
}

impl InFlight {
    /// Whether nothing is out.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Batches that a side has, each piece of a copy counted.
    pub fn count(&self, side: Side) -> usize {
        self.count[side as usize]
    }

    /// A batch goes to a side.
    pub fn submitted(&mut self, batch: Batch, side: Side) {
        let key = (batch.id(), batch.first());
        let whole = (batch.first(), batch.items());
        let mut out =
            Out { names: Default::default(), owed: Default::default(), parts: Default::default(), batch };
        out.begin(side);
        out.names[side as usize].push((key.0, whole));
        self.count[side as usize] += 1;
        self.out.insert(key, out);
    }

    /// Submitting it was refused.
    pub(super) fn refused(&mut self, batch: &Batch, side: Side) {
        self.count[side as usize] -= usize::from(self.out.remove(&(batch.id(), batch.first())).is_some());
    }

    /// A copy, for the other side, of a batch of which nothing has come back; in so many pieces, as far as its items go.
    /// What is under suspicion is tried alone, and so has no copy.
    pub fn copy(&mut self, id: u64, to: Side, pieces: u32) -> Option<Vec<Batch>> {
        let mut found = self.out.range_mut((BatchId(id), 0)..=(BatchId(id), u64::MAX));
        let (key, out) = found.next()?;
        let from = to.other() as usize;
        let (first, items) = (out.batch.first(), out.batch.items());
        let whole = out.owed[from] == [(first, items)];
        if found.next().is_some() || !out.names[to as usize].is_empty() || !whole || out.batch.attempt() > 0 {
            return None;
        }
        out.begin(to);
        let each = items.div_ceil(pieces.clamp(1, items));
        let mut copies = Vec::new();
        for from in (0..items).step_by(each as usize) {
            let until = items.min(from + each);
            self.named += 1;
            let name = BatchId(COPIES + self.named);
            out.names[to as usize].push((name, (first + u64::from(from), until - from)));
            self.copies.insert(name, *key);
            copies.push(out.batch.piece(name, from, until, 0));
        }
        self.count[to as usize] += copies.len();
        Some(copies)
    }

    /// The copy could not be sent: it is no more, also what of it was.
    pub(super) fn uncopied(&mut self, copy: BatchId, to: Side) -> Option<Cancel> {
        let key = *self.copies.get(&copy)?;
        self.ends(key, to)
    }

    /// What has this name on a side and holds the item at `first`.
    fn key(&self, id: BatchId, first: u64) -> Option<Key> {
        let copied = self.copies.get(&id).copied();
        copied.or_else(|| self.out.range((id, 0)..=(id, first)).next_back().map(|(key, _)| *key))
    }

    /// The same news with its items given back, as ones that were tried once more.
    pub(super) fn taken_back(&self, completion: Completion) -> Completion {
        let Completion { batch, first, items, .. } = completion;
        let Some(out) = self.key(batch, first).and_then(|key| self.out.get(&key)) else { return completion };
        let from = (first - out.batch.first()) as u32;
        if from + items > out.batch.items() {
            return completion;
        }
        let piece = out.batch.piece(batch, from, from + items, out.batch.attempt().saturating_add(1));
        Completion { batch, first, items, outcome: Outcome::Returned(piece) }
    }

    /// News of a side. `accuses`: they are of a loss that one of the items may have done, which then ends a race: what the
    /// other side has begun meanwhile would meet the same item, and the host's adapter, which divides the batch, has
    /// to know each of its deaths.
    pub fn landed(&mut self, side: Side, completion: Completion, accuses: bool) -> CopyOutcome {
        let (id, first) = (completion.batch, completion.first);
        let key = self.key(id, first);
        let at = side as usize;
        // Whatever comes of a side that need not answer any more is dropped.
        let Some((key, out)) = key.and_then(|key| self.out.get_mut(&key).map(|out| (key, out))) else {
            return CopyOutcome::default();
        };
        if !out.names[at].iter().any(|(name, _)| *name == id) {
            return CopyOutcome::default();
        }
        take(&mut out.owed[at], first, completion.items);
        let done = matches!(completion.outcome, Outcome::Done(_));
        let mut landed = CopyOutcome { of: Some(key.0.0), ..CopyOutcome::default() };
        let raced = !out.names[side.other() as usize].is_empty();
        if raced && done {
            out.parts[at].push(completion);
            if out.owed[at].is_empty() {
                landed.take_parts(side, &mut out.parts[at]);
                landed.cancel.extend(self.ends(key, side.other()));
            }
        } else if raced && accuses {
            self.end_race(key, side, completion, &mut landed);
        } else if raced {
            // The other one goes on alone, also for what it has answered.
            landed.take_parts(side.other(), &mut out.parts[side.other() as usize]);
            landed.cancel.extend(self.ends(key, side));
        } else {
            let renamed = out.renamed(completion, key.0);
            landed.completions.push((side, renamed));
        }
        for (_, completion) in &mut landed.completions {
            completion.batch = key.0;
        }
        self.forget(key, id, side);
        landed
    }

    /// A side has lost items of a batch that the other has as well. Whichever has answered more keeps that. Where it is the
    /// side of the loss, it goes on alone; else what the other has not answered is given back, and of that is lost what is
    /// among the lost items.
    fn end_race(&mut self, key: Key, side: Side, lost: Completion, landed: &mut CopyOutcome) {
        let (at, other) = (side as usize, side.other() as usize);
        let Some(out) = self.out.get_mut(&key) else { return };
        let answered = |parts: &[Completion]| parts.iter().map(|part| part.items).sum::<u32>();
        if answered(&out.parts[at]) >= answered(&out.parts[other]) {
            landed.take_parts(side, &mut out.parts[at]);
            landed.completions.push((side, out.renamed(lost, key.0)));
            landed.cancel.extend(self.ends(key, side.other()));
            return;
        }
        landed.take_parts(side.other(), &mut out.parts[other]);
        let end = lost.first + u64::from(lost.items);
        for (first, items) in std::mem::take(&mut out.owed[other]) {
            let until = first + u64::from(items);
            let (from, to) = (first.max(lost.first).min(until), until.min(end).max(first));
            let cuts = if from < to { [first, from, to, until] } else { [first, first, first, until] };
            for (cut, stretch) in cuts.windows(2).enumerate().filter(|(_, cut)| cut[0] < cut[1]) {
                let (start, items) = (stretch[0], (stretch[1] - stretch[0]) as u32);
                let part = match (&lost.outcome, cut) {
                    (Outcome::Lost(_, loss), 1) => out.lost(key.0, (start, items), loss, lost.first),
                    _ => out.given_back(key.0, start, items),
                };
                landed.completions.push((side, part));
            }
            out.owed[other].push((first, items));
        }
        landed.cancel.extend(self.ends(key, side));
        landed.cancel.extend(self.ends(key, side.other()));
    }

    /// All that a side has comes home: what it has alone is given back, of the rest the other one's answers count.
    pub fn withdraw_side(&mut self, side: Side) -> Vec<(u64, u32, Vec<Completion>)> {
        let keys: Vec<Key> = self.out.keys().copied().collect();
        let mut home = Vec::new();
        for key in keys {
            let Some(out) = self.out.get_mut(&key) else { continue };
            let at = side as usize;
            if out.names[at].is_empty() {
                continue;
            }
            let mut completions = std::mem::take(&mut out.parts[side.other() as usize]);
            if out.names[side.other() as usize].is_empty() {
                let owed = out.owed[at].clone();
                completions
                    .extend(owed.into_iter().map(|(first, items)| out.given_back(key.0, first, items)));
            }
            for completion in &mut completions {
                completion.batch = key.0;
            }
            let items = self.ends(key, side).map_or(0, |cancel| cancel.items);
            self.forget_if_over(key);
            home.push((key.0.0, items, completions));
        }
        home
    }

    /// Takes back what a side alone has of a batch that can't be copied: what it is called there, and what is given back.
    pub(super) fn withdraw(&mut self, id: u64, side: Side) -> Option<(Cancel, Vec<Completion>)> {
        let at = side as usize;
        let alone = |out: &Out| !out.names[at].is_empty() && out.names[side.other() as usize].is_empty();
        let mut found = self.out.range((BatchId(id), 0)..=(BatchId(id), u64::MAX));
        let (key, out) = found.find(|(_, out)| alone(out))?;
        let key = *key;
        let back = out.owed[at].iter().map(|(first, items)| out.given_back(key.0, *first, *items)).collect();
        let cancel = self.ends(key, side)?;
        self.forget_if_over(key);
        Some((cancel, back))
    }

    /// A side has nothing to do with a batch any more.
    fn ends(&mut self, key: Key, side: Side) -> Option<Cancel> {
        let out = self.out.get_mut(&key)?;
        let at = side as usize;
        let names: Vec<BatchId> =
            std::mem::take(&mut out.names[at]).into_iter().map(|(name, _)| name).collect();
        let items = std::mem::take(&mut out.owed[at]).iter().map(|(_, items)| items).sum();
        out.parts[at].clear();
        for name in &names {
            self.copies.remove(name);
        }
        self.count[at] -= names.len();
        (!names.is_empty()).then_some(Cancel { side, names, items })
    }

    /// What a side had by that name takes no place there any more, if all of it is answered.
    fn forget(&mut self, key: Key, name: BatchId, side: Side) {
        let at = side as usize;
        if let Some(out) = self.out.get_mut(&key)
            && let Some(index) = out.names[at].iter().position(|(known, stretch)| {
                *known == name && !out.owed[at].iter().any(|owed| overlaps(owed, stretch))
            })
        {
            out.names[at].remove(index);
            self.copies.remove(&name);
            self.count[at] -= 1;
        }
        self.forget_if_over(key);
    }

    fn forget_if_over(&mut self, key: Key) {
        let Some(out) = self.out.get(&key) else { return };
        if out.names.iter().all(Vec::is_empty) {
            self.out.remove(&key);
        }
    }
}

impl CopyOutcome {
    /// The events for the policy: the one that this outcome is of, and the cancellations. A copy that goes on alone comes
    /// first, because its answers count from then on.
    pub fn seen(&self, side: Side, news: Event) -> Vec<Event> {
        let Some(batch) = self.of else { return Vec::new() };
        let back = |cancel: &Cancel| {
            let Cancel { side, items, .. } = *cancel;
            Event::Back { batch, side, items, lost: false }
        };
        let mut seen: Vec<Event> = self.cancel.iter().map(back).collect();
        let goes_on = self.cancel.first().is_some_and(|cancel| cancel.side == side.other());
        let at = if goes_on && matches!(news, Event::Back { .. }) { seen.len() } else { 0 };
        seen.insert(at, news);
        seen
    }

    fn take_parts(&mut self, side: Side, parts: &mut Vec<Completion>) {
        self.completions.extend(std::mem::take(parts).into_iter().map(|part| (side, part)));
    }
}

impl Out {
    fn begin(&mut self, side: Side) {
        self.owed[side as usize] = vec![(self.batch.first(), self.batch.items())];
        self.parts[side as usize].clear();
    }

    /// The batch's items of a stretch.
    fn piece(&self, name: BatchId, first: u64, items: u32) -> Batch {
        let from = (first - self.batch.first()) as u32;
        self.batch.piece(name, from, from + items, self.batch.attempt())
    }

    fn given_back(&self, name: BatchId, first: u64, items: u32) -> Completion {
        let outcome = Outcome::Returned(self.piece(name, first, items));
        Completion { batch: name, first, items, outcome }
    }

    /// What a loss, of items from `lost` on, is to a stretch of them. Where the item that ran is answered by the other side,
    /// none of the others is to blame.
    fn lost(&self, name: BatchId, (first, items): Stretch, loss: &WorkerLoss, lost: u64) -> Completion {
        let running = match loss.running {
            Running::Item(item) => {
                let index = lost + u64::from(item);
                match index.checked_sub(first).map(|item| item as u32).filter(|item| *item < items) {
                    Some(item) => Running::Item(item),
                    None => return self.given_back(name, first, items),
                }
            }
            running => running,
        };
        let loss = WorkerLoss { running, death: loss.death.clone() };
        let outcome = Outcome::Lost(self.piece(name, first, items), loss);
        Completion { batch: name, first, items, outcome }
    }

    /// The completion, with the batch's own name in what it gives back.
    fn renamed(&self, completion: Completion, name: BatchId) -> Completion {
        if completion.batch == name {
            return completion;
        }
        let Completion { first, items, outcome, .. } = completion;
        let outcome = match outcome {
            Outcome::Done(results) => Outcome::Done(results),
            Outcome::Returned(rest) => {
                let from = (first - self.batch.first()) as u32;
                Outcome::Returned(self.batch.piece(name, from, from + items, rest.attempt()))
            }
            Outcome::Lost(_, loss) => Outcome::Lost(self.piece(name, first, items), loss),
        };
        Completion { batch: name, first, items, outcome }
    }
}

fn overlaps(one: &Stretch, other: &Stretch) -> bool {
    one.0 < other.0 + u64::from(other.1) && other.0 < one.0 + u64::from(one.1)
}

/// Takes a stretch out of others.
fn take(owed: &mut Vec<Stretch>, first: u64, items: u32) {
    let end = first + u64::from(items);
    let mut left = Vec::with_capacity(owed.len() + 1);
    for (from, count) in owed.drain(..) {
        let to = from + u64::from(count);
        if from < first {
            left.push((from, (to.min(first) - from) as u32));
        }
        if to > end {
            let start = from.max(end);
            left.push((start, (to - start) as u32));
        }
    }
    *owed = left;
}

#[cfg(test)]
mod tests;
