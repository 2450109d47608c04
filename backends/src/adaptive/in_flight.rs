//! Table of the batches in flight on the two runs: unanswered items, and copies that race each other. Used by
//! `run` and by the simulator; independent of the policy.

use std::collections::{BTreeMap, HashMap};

use super::policy::{Event, Side};
use crate::model::batch::Batch;
use crate::model::completion::{Completion, Outcome};
use crate::model::death::{Running, WorkerLoss};
use crate::model::ids::BatchId;

/// First id for copies: no host's adapter counts this far.
const FIRST_COPY_ID: u64 = 1 << 62;

/// A batch's id and the index of its first item: a returned part is sent again under its batch's id.
type Key = (BatchId, u64);

/// Consecutive items: index of the first, and their number.
type ItemRange = (u64, u32);

/// A batch as it was submitted.
#[derive(Debug)]
struct InFlightBatch {
    batch: Batch,
    /// Ids under which each side has it, with the items of each id: a copy may be in pieces.
    names: [Vec<(BatchId, ItemRange)>; 2],
    /// Items that each side has not answered.
    pending: [Vec<ItemRange>; 2],
    /// Answers of each side, stored while both have it, until one has answered all.
    parts: [Vec<Completion>; 2],
}

/// Result of processing a completion.
#[derive(Debug, Default)]
pub struct CopyOutcome {
    /// Completions for the host's adapter, with the side of each.
    pub completions: Vec<(Side, Completion)>,
    /// Batches to cancel.
    pub cancel: Vec<Cancel>,
    /// The batch's id, if its answer was awaited.
    pub of: Option<u64>,
}

/// Items that a side need not answer any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The side.
    pub side: Side,
    /// Their ids on that side.
    pub names: Vec<BatchId>,
    /// Number of its unanswered items.
    pub items: u32,
}

/// All batches in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    batches: BTreeMap<Key, InFlightBatch>,
    /// Keys of the copies, by their ids.
    copies: HashMap<BatchId, Key>,
    copies_created: u64,
    count: [usize; 2],
}

impl InFlight {
    /// Returns whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Number of batches on a side; each piece of a copy counts.
    pub fn count(&self, side: Side) -> usize {
        self.count[side as usize]
    }

    /// Records a batch submitted to a side.
    pub fn submitted(&mut self, batch: Batch, side: Side) {
        let key = (batch.id(), batch.first());
        let whole = (batch.first(), batch.items());
        let mut entry = InFlightBatch {
            names: Default::default(),
            pending: Default::default(),
            parts: Default::default(),
            batch,
        };
        entry.assign(side);
        entry.names[side as usize].push((key.0, whole));
        self.count[side as usize] += 1;
        self.batches.insert(key, entry);
    }

    /// Removes a batch that the side rejected.
    pub(super) fn on_rejected(&mut self, batch: &Batch, side: Side) {
        self.count[side as usize] -= usize::from(self.batches.remove(&(batch.id(), batch.first())).is_some());
    }

    /// Creates a copy of a batch for the other side, in up to `pieces` pieces. `None` if items of the batch
    /// have returned, or if it was tried before: suspects run alone, without a copy.
    pub fn copy(&mut self, id: u64, to: Side, pieces: u32) -> Option<Vec<Batch>> {
        let mut found = self.batches.range_mut((BatchId(id), 0)..=(BatchId(id), u64::MAX));
        let (key, entry) = found.next()?;
        let from = to.other() as usize;
        let (first, items) = (entry.batch.first(), entry.batch.items());
        let whole = entry.pending[from] == [(first, items)];
        if found.next().is_some()
            || !entry.names[to as usize].is_empty()
            || !whole
            || entry.batch.attempt() > 0
        {
            return None;
        }
        entry.assign(to);
        let each = items.div_ceil(pieces.clamp(1, items));
        let mut copies = Vec::new();
        for from in (0..items).step_by(each as usize) {
            let until = items.min(from + each);
            self.copies_created += 1;
            let name = BatchId(FIRST_COPY_ID + self.copies_created);
            entry.names[to as usize].push((name, (first + u64::from(from), until - from)));
            self.copies.insert(name, *key);
            copies.push(entry.batch.piece(name, from, until, 0));
        }
        self.count[to as usize] += copies.len();
        Some(copies)
    }

    /// Removes a copy that could not be sent, including the pieces that were sent.
    pub(super) fn remove_copy(&mut self, copy: BatchId, to: Side) -> Option<Cancel> {
        let key = *self.copies.get(&copy)?;
        self.unassign(key, to)
    }

    /// Key of the batch that has this id on a side and contains the item at `first`.
    fn key(&self, id: BatchId, first: u64) -> Option<Key> {
        let copied = self.copies.get(&id).copied();
        copied.or_else(|| self.batches.range((id, 0)..=(id, first)).next_back().map(|(key, _)| *key))
    }

    /// Converts a completion to a return of its items, with one more attempt.
    pub(super) fn as_returned(&self, completion: Completion) -> Completion {
        let Completion { batch, first, items, .. } = completion;
        let Some(entry) = self.key(batch, first).and_then(|key| self.batches.get(&key)) else {
            return completion;
        };
        let from = (first - entry.batch.first()) as u32;
        if from + items > entry.batch.items() {
            return completion;
        }
        let piece = entry.batch.piece(batch, from, from + items, entry.batch.attempt().saturating_add(1));
        Completion { batch, first, items, outcome: Outcome::Returned(piece) }
    }

    /// Processes a completion of a side. `accuses`: it is a loss that one of the items may have caused. That
    /// ends a race, because the other side's copy would run the same item. The host's adapter, which splits
    /// the batch, must see each death of an item.
    pub fn landed(&mut self, side: Side, completion: Completion, accuses: bool) -> CopyOutcome {
        let (id, first) = (completion.batch, completion.first);
        let key = self.key(id, first);
        let at = side as usize;
        // Ignore completions of a side that need not answer any more.
        let Some((key, entry)) = key.and_then(|key| self.batches.get_mut(&key).map(|entry| (key, entry)))
        else {
            return CopyOutcome::default();
        };
        if !entry.names[at].iter().any(|(name, _)| *name == id) {
            return CopyOutcome::default();
        }
        remove_range(&mut entry.pending[at], first, completion.items);
        let done = matches!(completion.outcome, Outcome::Done(_));
        let mut result = CopyOutcome { of: Some(key.0.0), ..CopyOutcome::default() };
        let raced = !entry.names[side.other() as usize].is_empty();
        if raced && done {
            entry.parts[at].push(completion);
            if entry.pending[at].is_empty() {
                result.take_parts(side, &mut entry.parts[at]);
                result.cancel.extend(self.unassign(key, side.other()));
            }
        } else if raced && accuses {
            self.end_race(key, side, completion, &mut result);
        } else if raced {
            // The other side continues alone, also with its answers so far.
            result.take_parts(side.other(), &mut entry.parts[side.other() as usize]);
            result.cancel.extend(self.unassign(key, side));
        } else {
            let renamed = entry.renamed(completion, key.0);
            result.completions.push((side, renamed));
        }
        for (_, completion) in &mut result.completions {
            completion.batch = key.0;
        }
        self.remove_answered(key, id, side);
        result
    }

    /// Ends a race: one side has lost items of a batch that both have. The side with more answers keeps them.
    /// If that is the side of the loss, it continues alone. Otherwise the items that the other side has not
    /// answered are returned; of these, the lost ones are reported as lost.
    fn end_race(&mut self, key: Key, side: Side, lost: Completion, result: &mut CopyOutcome) {
        let (at, other) = (side as usize, side.other() as usize);
        let Some(entry) = self.batches.get_mut(&key) else { return };
        let answered = |parts: &[Completion]| parts.iter().map(|part| part.items).sum::<u32>();
        if answered(&entry.parts[at]) >= answered(&entry.parts[other]) {
            result.take_parts(side, &mut entry.parts[at]);
            result.completions.push((side, entry.renamed(lost, key.0)));
            result.cancel.extend(self.unassign(key, side.other()));
            return;
        }
        result.take_parts(side.other(), &mut entry.parts[other]);
        let end = lost.first + u64::from(lost.items);
        for (first, items) in std::mem::take(&mut entry.pending[other]) {
            let until = first + u64::from(items);
            let (from, to) = (first.max(lost.first).min(until), until.min(end).max(first));
            let cuts = if from < to { [first, from, to, until] } else { [first, first, first, until] };
            for (cut, range) in cuts.windows(2).enumerate().filter(|(_, cut)| cut[0] < cut[1]) {
                let (start, items) = (range[0], (range[1] - range[0]) as u32);
                let part = match (&lost.outcome, cut) {
                    (Outcome::Lost(_, loss), 1) => entry.loss_of(key.0, (start, items), loss, lost.first),
                    _ => entry.returned(key.0, start, items),
                };
                result.completions.push((side, part));
            }
            entry.pending[other].push((first, items));
        }
        result.cancel.extend(self.unassign(key, side));
        result.cancel.extend(self.unassign(key, side.other()));
    }

    /// Withdraws every batch from `side`: batches that only it has are returned for resubmission; of
    /// duplicated ones the other copy continues.
    pub fn withdraw_side(&mut self, side: Side) -> Vec<(u64, u32, Vec<Completion>)> {
        let keys: Vec<Key> = self.batches.keys().copied().collect();
        let mut withdrawn = Vec::new();
        for key in keys {
            let Some(entry) = self.batches.get_mut(&key) else { continue };
            let at = side as usize;
            if entry.names[at].is_empty() {
                continue;
            }
            let mut completions = std::mem::take(&mut entry.parts[side.other() as usize]);
            if entry.names[side.other() as usize].is_empty() {
                let pending = entry.pending[at].clone();
                completions
                    .extend(pending.into_iter().map(|(first, items)| entry.returned(key.0, first, items)));
            }
            for completion in &mut completions {
                completion.batch = key.0;
            }
            let items = self.unassign(key, side).map_or(0, |cancel| cancel.items);
            self.remove_if_unassigned(key);
            withdrawn.push((key.0.0, items, completions));
        }
        withdrawn
    }

    /// Withdraws a batch that only this side has and that can't be copied. Returns the cancellation and the
    /// returned items.
    pub(super) fn withdraw(&mut self, id: u64, side: Side) -> Option<(Cancel, Vec<Completion>)> {
        let at = side as usize;
        let alone = |entry: &InFlightBatch| {
            !entry.names[at].is_empty() && entry.names[side.other() as usize].is_empty()
        };
        let mut found = self.batches.range((BatchId(id), 0)..=(BatchId(id), u64::MAX));
        let (key, entry) = found.find(|(_, entry)| alone(entry))?;
        let key = *key;
        let back =
            entry.pending[at].iter().map(|(first, items)| entry.returned(key.0, *first, *items)).collect();
        let cancel = self.unassign(key, side)?;
        self.remove_if_unassigned(key);
        Some((cancel, back))
    }

    /// Removes a batch from a side.
    fn unassign(&mut self, key: Key, side: Side) -> Option<Cancel> {
        let entry = self.batches.get_mut(&key)?;
        let at = side as usize;
        let names: Vec<BatchId> =
            std::mem::take(&mut entry.names[at]).into_iter().map(|(name, _)| name).collect();
        let items = std::mem::take(&mut entry.pending[at]).iter().map(|(_, items)| items).sum();
        entry.parts[at].clear();
        for name in &names {
            self.copies.remove(name);
        }
        self.count[at] -= names.len();
        (!names.is_empty()).then_some(Cancel { side, names, items })
    }

    /// Removes an id from a side if all its items are answered.
    fn remove_answered(&mut self, key: Key, name: BatchId, side: Side) {
        let at = side as usize;
        if let Some(entry) = self.batches.get_mut(&key)
            && let Some(index) = entry.names[at].iter().position(|(known, range)| {
                *known == name && !entry.pending[at].iter().any(|pending| overlaps(pending, range))
            })
        {
            entry.names[at].remove(index);
            self.copies.remove(&name);
            self.count[at] -= 1;
        }
        self.remove_if_unassigned(key);
    }

    fn remove_if_unassigned(&mut self, key: Key) {
        let Some(entry) = self.batches.get(&key) else { return };
        if entry.names.iter().all(Vec::is_empty) {
            self.batches.remove(&key);
        }
    }
}

impl CopyOutcome {
    /// Events for the policy: the given one, and the cancellations. If a copy continues alone, the
    /// cancellation of the other comes first, because its answers count from then on.
    pub fn seen(&self, side: Side, event: Event) -> Vec<Event> {
        let Some(batch) = self.of else { return Vec::new() };
        let back = |cancel: &Cancel| {
            let Cancel { side, items, .. } = *cancel;
            Event::Back { batch, side, items, lost: false }
        };
        let mut seen: Vec<Event> = self.cancel.iter().map(back).collect();
        let copy_continues = self.cancel.first().is_some_and(|cancel| cancel.side == side.other());
        let at = if copy_continues && matches!(event, Event::Back { .. }) { seen.len() } else { 0 };
        seen.insert(at, event);
        seen
    }

    fn take_parts(&mut self, side: Side, parts: &mut Vec<Completion>) {
        self.completions.extend(std::mem::take(parts).into_iter().map(|part| (side, part)));
    }
}

impl InFlightBatch {
    fn assign(&mut self, side: Side) {
        self.pending[side as usize] = vec![(self.batch.first(), self.batch.items())];
        self.parts[side as usize].clear();
    }

    /// The items of a range as a batch.
    fn piece(&self, name: BatchId, first: u64, items: u32) -> Batch {
        let from = (first - self.batch.first()) as u32;
        self.batch.piece(name, from, from + items, self.batch.attempt())
    }

    fn returned(&self, name: BatchId, first: u64, items: u32) -> Completion {
        let outcome = Outcome::Returned(self.piece(name, first, items));
        Completion { batch: name, first, items, outcome }
    }

    /// Applies a loss of the items from `lost` on to a range of them. If the other side has answered the item
    /// that ran, none of the others is a suspect, and they are returned.
    fn loss_of(&self, name: BatchId, (first, items): ItemRange, loss: &WorkerLoss, lost: u64) -> Completion {
        let running = match loss.running {
            Running::Item(item) => {
                let index = lost + u64::from(item);
                match index.checked_sub(first).map(|item| item as u32).filter(|item| *item < items) {
                    Some(item) => Running::Item(item),
                    None => return self.returned(name, first, items),
                }
            }
            running => running,
        };
        let loss = WorkerLoss { running, death: loss.death.clone() };
        let outcome = Outcome::Lost(self.piece(name, first, items), loss);
        Completion { batch: name, first, items, outcome }
    }

    /// The completion with the batch's own id.
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

fn overlaps(one: &ItemRange, other: &ItemRange) -> bool {
    one.0 < other.0 + u64::from(other.1) && other.0 < one.0 + u64::from(one.1)
}

/// Removes a range from others.
fn remove_range(pending: &mut Vec<ItemRange>, first: u64, items: u32) {
    let end = first + u64::from(items);
    let mut left = Vec::with_capacity(pending.len() + 1);
    for (from, count) in pending.drain(..) {
        let to = from + u64::from(count);
        if from < first {
            left.push((from, (to.min(first) - from) as u32));
        }
        if to > end {
            let start = from.max(end);
            left.push((start, (to - start) as u32));
        }
    }
    *pending = left;
}

#[cfg(test)]
mod tests;
