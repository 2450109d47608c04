//! What the two runs have: each batch that is out, what of it is still owed, and copies that race each other.
//! Kept by `run`; knows no policy.

use std::collections::{BTreeMap, HashMap};

use super::policy::Side;
use crate::batch::{Batch, BatchId};
use crate::completion::{Completion, Outcome};

/// Names of copies begin here: no host's adapter counts so far.
const COPIES: u64 = 1 << 62;

/// A batch's name and the index of its first item: a part that was given back goes out again under its batch's name.
type Key = (BatchId, u64);

/// A batch as it was submitted.
#[derive(Debug)]
struct Out {
    batch: Batch,
    /// What it is called on each side that has it.
    names: [Option<BatchId>; 2],
    /// Stretches that each side has not answered: first index, items.
    owed: [Vec<(u64, u32)>; 2],
    /// Answers of each side, kept until one has all, while both have it.
    parts: [Vec<Completion>; 2],
}

/// What a completion comes to.
#[derive(Debug, Default)]
pub(super) struct Landed {
    /// For the host's adapter.
    pub(super) completions: Vec<Completion>,
    /// What a side need not answer any more: its name there, and the items that it still owed.
    pub(super) cancel: Option<(Side, BatchId, u32)>,
    /// The batch's name, if somebody waited for it.
    pub(super) of: Option<u64>,
}

/// All that is out.
#[derive(Debug, Default)]
pub(super) struct Held {
    out: BTreeMap<Key, Out>,
    /// Copies, by their names.
    copies: HashMap<BatchId, Key>,
    named: u64,
    count: [usize; 2],
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Batches that a side has.
    pub(super) fn count(&self, side: Side) -> usize {
        self.count[side as usize]
    }

    pub(super) fn submitted(&mut self, batch: Batch, side: Side) {
        let key = (batch.id(), batch.first());
        let mut out = Out { names: [None; 2], owed: Default::default(), parts: Default::default(), batch };
        out.begin(side, key.0);
        self.count[side as usize] += 1;
        self.out.insert(key, out);
    }

    /// Submitting it was refused.
    pub(super) fn refused(&mut self, batch: &Batch, side: Side) {
        self.count[side as usize] -= usize::from(self.out.remove(&(batch.id(), batch.first())).is_some());
    }

    /// A copy, for the other side, of a batch of which nothing has come back.
    pub(super) fn copy(&mut self, id: u64, to: Side) -> Option<Batch> {
        let mut found = self.out.range_mut((BatchId(id), 0)..=(BatchId(id), u64::MAX));
        let (key, out) = found.next()?;
        let from = to.other() as usize;
        let whole = out.owed[from] == [(out.batch.first(), out.batch.items())];
        if found.next().is_some() || out.names[to as usize].is_some() || !whole || out.batch.attempt() > 0 {
            return None;
        }
        self.named += 1;
        let name = BatchId(COPIES + self.named);
        let copy = out.batch.piece(name, 0, out.batch.items(), 0);
        out.begin(to, name);
        self.copies.insert(name, *key);
        self.count[to as usize] += 1;
        Some(copy)
    }

    /// The copy could not be sent.
    pub(super) fn uncopied(&mut self, copy: &Batch, to: Side) {
        if let Some(key) = self.copies.remove(&copy.id()) {
            self.count[to as usize] -= 1;
            if let Some(out) = self.out.get_mut(&key) {
                out.names[to as usize] = None;
            }
        }
    }

    /// What has this name on a side and holds the item at `first`.
    fn key(&self, id: BatchId, first: u64) -> Option<Key> {
        let copied = self.copies.get(&id).copied();
        copied.or_else(|| self.out.range((id, 0)..=(id, first)).next_back().map(|(key, _)| *key))
    }

    /// The same news with its items given back, as ones that were tried once more: they don't go to the service again.
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

    /// News of a side.
    pub(super) fn landed(&mut self, side: Side, completion: Completion) -> Landed {
        let (id, first) = (completion.batch, completion.first);
        let key = self.key(id, first);
        let at = side as usize;
        // Whatever comes of a side that need not answer any more is dropped.
        let Some((key, out)) = key.and_then(|key| self.out.get_mut(&key).map(|out| (key, out))) else {
            return Landed::default();
        };
        if out.names[at] != Some(id) {
            return Landed::default();
        }
        take(&mut out.owed[at], first, completion.items);
        let done = matches!(completion.outcome, Outcome::Done(_));
        let mut landed = Landed { of: Some(key.0.0), ..Landed::default() };
        let raced = out.names[side.other() as usize].is_some();
        if raced && done {
            out.parts[at].push(completion);
            if out.owed[at].is_empty() {
                landed.completions = std::mem::take(&mut out.parts[at]);
                landed.cancel = self.ends(key, side.other());
            }
        } else if raced {
            // The other one goes on alone, also for what it has answered.
            landed.completions = std::mem::take(&mut out.parts[side.other() as usize]);
            landed.cancel = self.ends(key, side);
        } else {
            let renamed = out.renamed(completion, key.0);
            landed.completions.push(renamed);
        }
        for completion in &mut landed.completions {
            completion.batch = key.0;
        }
        self.forget_if_over(key);
        landed
    }

    /// All that a side has comes home: what it has alone is given back, of the rest the other one's answers count.
    pub(super) fn come_home(&mut self, side: Side) -> Vec<(u64, u32, Vec<Completion>)> {
        let keys: Vec<Key> = self.out.keys().copied().collect();
        let mut home = Vec::new();
        for key in keys {
            let Some(out) = self.out.get_mut(&key) else { continue };
            let at = side as usize;
            if out.names[at].is_none() {
                continue;
            }
            let mut completions = std::mem::take(&mut out.parts[side.other() as usize]);
            if out.names[side.other() as usize].is_none() {
                let owed = out.owed[at].clone();
                completions
                    .extend(owed.into_iter().map(|(first, items)| out.given_back(key.0, first, items)));
            }
            for completion in &mut completions {
                completion.batch = key.0;
            }
            let items = self.ends(key, side).map_or(0, |(_, _, items)| items);
            self.forget_if_over(key);
            home.push((key.0.0, items, completions));
        }
        home
    }

    /// A side has nothing to do with a batch any more: its name there, and what it still owed.
    fn ends(&mut self, key: Key, side: Side) -> Option<(Side, BatchId, u32)> {
        let out = self.out.get_mut(&key)?;
        let at = side as usize;
        let name = out.names[at].take()?;
        let items = std::mem::take(&mut out.owed[at]).iter().map(|(_, items)| items).sum();
        out.parts[at].clear();
        self.copies.remove(&name);
        self.count[at] -= 1;
        Some((side, name, items))
    }

    fn forget_if_over(&mut self, key: Key) {
        let Some(out) = self.out.get(&key) else { return };
        let owes = |side: usize| out.names[side].is_some() && !out.owed[side].is_empty();
        if !owes(0) && !owes(1) {
            for (at, name) in out.names.iter().enumerate() {
                if let Some(name) = name {
                    self.copies.remove(name);
                    self.count[at] -= 1;
                }
            }
            self.out.remove(&key);
        }
    }
}

impl Out {
    fn begin(&mut self, side: Side, name: BatchId) {
        self.names[side as usize] = Some(name);
        self.owed[side as usize] = vec![(self.batch.first(), self.batch.items())];
        self.parts[side as usize].clear();
    }

    fn given_back(&self, name: BatchId, first: u64, items: u32) -> Completion {
        let from = (first - self.batch.first()) as u32;
        let piece = self.batch.piece(name, from, from + items, self.batch.attempt());
        Completion { batch: name, first, items, outcome: Outcome::Returned(piece) }
    }

    /// The completion, with the batch's own name in what it gives back.
    fn renamed(&self, completion: Completion, name: BatchId) -> Completion {
        if completion.batch == name {
            return completion;
        }
        let Completion { first, items, outcome, .. } = completion;
        let from = (first - self.batch.first()) as u32;
        let piece = |of: &Batch| self.batch.piece(name, from, from + items, of.attempt());
        let outcome = match outcome {
            Outcome::Done(results) => Outcome::Done(results),
            Outcome::Returned(rest) => Outcome::Returned(piece(&rest)),
            Outcome::Lost(lost, loss) => Outcome::Lost(piece(&lost), loss),
        };
        Completion { batch: name, first, items, outcome }
    }
}

/// Takes a stretch out of others.
fn take(owed: &mut Vec<(u64, u32)>, first: u64, items: u32) {
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
mod tests {
    use super::*;
    use crate::completion::Results;
    use crate::{BatchBuilder, JobId};

    fn batch(id: u64, first: u64, items: u32) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend(std::iter::repeat_n(0, items as usize));
        builder.added(items);
        builder.finish(JobId(1), BatchId(id), first, 1000)
    }

    fn done(batch: BatchId, first: u64, items: u32) -> Completion {
        Completion { batch, first, items, outcome: Outcome::Done(Results::default()) }
    }

    fn stretches(landed: &[Completion]) -> Vec<(u64, u64, u32)> {
        landed.iter().map(|part| (part.batch.0, part.first, part.items)).collect()
    }

    #[test]
    fn parts_of_a_batch_that_one_side_has_go_through_as_they_come() {
        let mut held = Held::default();
        held.submitted(batch(1, 10, 5), Side::Cloud);
        let landed = held.landed(Side::Cloud, done(BatchId(1), 12, 3));
        assert_eq!(stretches(&landed.completions), [(1, 12, 3)]);
        assert!(held.copy(1, Side::Local).is_none(), "of what has come back in part there is no copy");
        held.landed(Side::Cloud, done(BatchId(1), 10, 2));
        assert!(held.is_empty() && held.count(Side::Cloud) == 0);
    }

    #[test]
    fn of_two_copies_the_first_that_is_whole_counts_and_the_other_is_cancelled() {
        let mut held = Held::default();
        held.submitted(batch(1, 0, 4), Side::Cloud);
        let copy = held.copy(1, Side::Local).expect("nothing has come back");
        assert!(held.landed(Side::Cloud, done(BatchId(1), 0, 3)).completions.is_empty());
        assert!(held.landed(Side::Local, done(copy.id(), 2, 2)).completions.is_empty());
        let landed = held.landed(Side::Local, done(copy.id(), 0, 2));
        assert_eq!(stretches(&landed.completions), [(1, 2, 2), (1, 0, 2)]);
        assert_eq!(landed.cancel, Some((Side::Cloud, BatchId(1), 1)));
        assert!(held.is_empty());
        assert!(held.landed(Side::Cloud, done(BatchId(1), 3, 1)).of.is_none(), "it comes too late");
    }

    #[test]
    fn a_copy_that_fails_leaves_the_other_to_go_on_alone_with_what_it_has() {
        let mut held = Held::default();
        held.submitted(batch(1, 0, 4), Side::Local);
        let copy = held.copy(1, Side::Cloud).expect("nothing has come back");
        held.landed(Side::Cloud, done(copy.id(), 0, 1));
        let back =
            Completion { batch: BatchId(1), first: 0, items: 4, outcome: Outcome::Returned(batch(1, 0, 4)) };
        let landed = held.landed(Side::Local, back);
        assert_eq!(stretches(&landed.completions), [(1, 0, 1)]);
        let rest = copy.piece(copy.id(), 1, 4, 0);
        let back = Completion { batch: copy.id(), first: 1, items: 3, outcome: Outcome::Returned(rest) };
        let landed = held.landed(Side::Cloud, back);
        let Outcome::Returned(rest) = &landed.completions[0].outcome else { panic!("{landed:?}") };
        assert_eq!((rest.id(), rest.first(), rest.items()), (BatchId(1), 1, 3));
        assert!(held.is_empty());
    }

    #[test]
    fn what_is_taken_back_of_a_copy_has_its_own_name_and_is_tried_once_more() {
        let mut held = Held::default();
        held.submitted(batch(1, 10, 2), Side::Local);
        let copy = held.copy(1, Side::Cloud).expect("nothing has come back");
        let back = Completion {
            batch: BatchId(1),
            first: 10,
            items: 2,
            outcome: Outcome::Returned(batch(1, 10, 2)),
        };
        held.landed(Side::Local, back);
        let taken = held.taken_back(done(copy.id(), 11, 1));
        let landed = held.landed(Side::Cloud, taken);
        let Outcome::Returned(item) = &landed.completions[0].outcome else { panic!("{landed:?}") };
        assert_eq!((item.id(), item.first(), item.items(), item.attempt()), (BatchId(1), 11, 1, 1));
    }

    #[test]
    fn what_nobody_waits_for_is_not_taken_back() {
        let mut held = Held::default();
        held.submitted(batch(1, 10, 2), Side::Cloud);
        for first in [9, 12] {
            let late = held.taken_back(done(BatchId(1), first, 1));
            assert!(matches!(late.outcome, Outcome::Done(_)), "{late:?}");
        }
    }

    #[test]
    fn what_a_service_had_alone_comes_home_and_what_both_had_is_here() {
        let mut held = Held::default();
        held.submitted(batch(1, 0, 4), Side::Cloud);
        held.submitted(batch(2, 4, 4), Side::Cloud);
        held.landed(Side::Cloud, done(BatchId(1), 1, 2));
        let copy = held.copy(2, Side::Local).expect("nothing has come back");
        let home = held.come_home(Side::Cloud);
        let back: Vec<_> = home.iter().flat_map(|(.., parts)| stretches(parts)).collect();
        assert_eq!(back, [(1, 0, 1), (1, 3, 1)]);
        assert_eq!(held.count(Side::Cloud), 0);
        let landed = held.landed(Side::Local, done(copy.id(), 4, 4));
        assert_eq!(stretches(&landed.completions), [(2, 4, 4)]);
        assert!(held.is_empty());
    }
}
