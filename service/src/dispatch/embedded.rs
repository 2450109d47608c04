//! Dispatch within one process: a queue for each run, and turns that go round among tenants and among the
//! runs of each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::sync::{Notify, broadcast, oneshot};

use super::work::{RunSpec, Task, Work, WorkOutcome};
use super::{Closed, Dispatch, Lease, LeaseId, Payer, PendingWork, Unavailable, Used, Uses, WorkSource};

/// Agents that may lose the same work before it is given up.
const DELIVERIES: u32 = 5;

/// Queues in this process.
#[derive(Debug)]
pub struct Embedded {
    state: Mutex<State>,
    /// Wakes agents: work can be leased, or the queue is closed.
    changed: Notify,
    ended: broadcast::Sender<String>,
    /// What one tenant may have in agents' hands; each of its runs has a share of that for sure.
    quota: usize,
    /// Length of a lease.
    lease_time: Duration,
    uses: Uses,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<i64, Tenant>,
    /// Tenants with work that waits, in the order of their turns.
    waiting: VecDeque<i64>,
    leased: HashMap<LeaseId, Leased>,
    next: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Tenant {
    /// Those that have work.
    runs: HashMap<String, OfRun>,
    /// Runs with work that waits, in the order of their turns.
    waiting: VecDeque<String>,
    leased: usize,
}

#[derive(Debug, Default)]
struct OfRun {
    waiting: VecDeque<Entry>,
    leased: usize,
}

impl Tenant {
    /// The next work for an agent, if the quota admits some: each run may have its share of the quota in
    /// agents' hands, whatever the others have there. Otherwise a run whose items do not end, because they
    /// are long or its client was killed, would hold up all others of its account.
    fn next(&mut self, quota: usize) -> Option<Entry> {
        let share = (quota / self.runs.len().max(1)).max(1);
        let has_less = |run: &String| self.runs.get(run).is_some_and(|of_run| of_run.leased < share);
        // First a run that has less than its share, whose turn may be later. Only if there is none, the next
        // in turn gets what is left of the quota.
        let at = self.waiting.iter().position(has_less).or((self.leased < quota).then_some(0))?;
        let run = self.waiting.remove(at)?;
        let of_run = self.runs.get_mut(&run)?;
        let entry = of_run.waiting.pop_front()?;
        of_run.leased += 1;
        self.leased += 1;
        if !of_run.waiting.is_empty() {
            self.waiting.push_back(run);
        }
        Some(entry)
    }

    /// Work of a run has left an agent's hands.
    fn free(&mut self, run: &str) {
        self.leased -= 1;
        if let Some(of_run) = self.runs.get_mut(run) {
            of_run.leased -= 1;
            // A run without work counts for no share: the others get what it had.
            if of_run.leased == 0 && of_run.waiting.is_empty() {
                self.runs.remove(run);
            }
        }
    }

    /// Takes out work of a run that waits.
    fn take_waiting(&mut self, run: &str, meant: impl Fn(&Work) -> bool) -> Vec<Entry> {
        let Some(of_run) = self.runs.get_mut(run) else { return Vec::new() };
        let (taken, kept) = std::mem::take(&mut of_run.waiting)
            .into_iter()
            .partition::<VecDeque<Entry>, _>(|entry| meant(&entry.work));
        of_run.waiting = kept;
        if of_run.waiting.is_empty() {
            // A turn without work would be taken by `next`, which would find nothing, though other runs wait.
            self.waiting.retain(|waits| waits != run);
            if of_run.leased == 0 {
                self.runs.remove(run);
            }
        }
        taken.into()
    }
}

#[derive(Debug)]
struct Entry {
    work: Work,
    deliveries: u32,
    reply: oneshot::Sender<WorkOutcome>,
}

#[derive(Debug)]
struct Leased {
    entry: Entry,
    until: Instant,
    /// Whether its agent still has it.
    in_hand: Weak<()>,
    /// Notified when the lease ends without its agent.
    revoked: Arc<Notify>,
}

impl Embedded {
    /// Empty queues.
    pub fn new(quota: usize, lease_time: Duration) -> Self {
        let (ended, _) = broadcast::channel(1024);
        let (changed, uses) = (Notify::new(), Uses::default());
        Embedded { state: Mutex::default(), changed, ended, quota: quota.max(1), lease_time, uses }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock_unpoisoned()
    }

    fn closed(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// Leases work if there is any; else returns when the first lease ends, if there is one.
    fn try_lease(&self) -> Result<Result<Lease, Option<Instant>>, Closed> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        // No timer takes overdue leases back. They concern agents that wait for work, and those look here;
        // while they wait, they look again when the first lease ends.
        state.take_back_overdue(now, self.lease_time);
        // Once around: when no tenant may have more in agents' hands, the caller waits for a change.
        for _ in 0..state.waiting.len() {
            let Some(account) = state.waiting.pop_front() else { break };
            // Its work was cancelled, and its place in the round was left for this line to drop.
            let Some(tenant) = state.tenants.get_mut(&account) else { continue };
            // A tenant whose quota is used up keeps its place in the round: the quota may be free at its next
            // turn.
            let next = tenant.next(self.quota);
            if !tenant.waiting.is_empty() {
                state.waiting.push_back(account);
            }
            let Some(mut entry) = next else { continue };
            entry.deliveries += 1;
            state.next += 1;
            let (id, work) = (LeaseId(state.next), entry.work.clone());
            let in_hand = Arc::default();
            let leased = Leased {
                entry,
                until: now + self.lease_time,
                in_hand: Arc::downgrade(&in_hand),
                revoked: Arc::default(),
            };
            state.leased.insert(id, leased);
            let more = !state.waiting.is_empty();
            drop(guard);
            // A permit wakes one agent only. Each that gets work passes it on while there is more.
            if more {
                self.changed.notify_one();
            }
            return Ok(Ok(Lease { id, lasts: self.lease_time, work, payer: Payer::default(), in_hand }));
        }
        // Behind the round: what was taken before the end is still leased, and answered.
        if state.closed {
            return Err(Closed);
        }
        Ok(Err(state.leased.values().map(|leased| leased.until).min()))
    }
}

impl State {
    fn queue(&mut self, entry: Entry, first: bool) {
        let RunSpec { account, run, .. } = &*entry.work.spec;
        let (account, run) = (*account, run.clone());
        let tenant = self.tenants.entry(account).or_default();
        // Its place may be there still, from work that was cancelled: two would be two turns.
        if tenant.waiting.is_empty() && !self.waiting.contains(&account) {
            self.waiting.push_back(account);
        }
        let of_run = tenant.runs.entry(run.clone()).or_default();
        let waits = !of_run.waiting.is_empty();
        match first {
            true => of_run.waiting.push_front(entry),
            false => of_run.waiting.push_back(entry),
        }
        match first {
            // The run has its place among the tenant's runs already.
            _ if waits => {}
            true => tenant.waiting.push_front(run),
            false => tenant.waiting.push_back(run),
        }
    }

    fn take(&mut self, id: LeaseId) -> Option<Entry> {
        let Leased { entry, revoked, .. } = self.leased.remove(&id)?;
        // A permit: an agent that asks for the revocation a moment later finds it, too.
        revoked.notify_one();
        self.free(&entry.work.spec);
        Some(entry)
    }

    /// Takes out all work of a run, or a batch of it, that waits or is leased.
    fn take_all(&mut self, run: &str, seq: Option<u64>) -> Vec<Entry> {
        let meant = |work: &Work| {
            let this = match (&work.task, seq) {
                (Task::Batch(batch), Some(seq)) => batch.seq == seq,
                (_, seq) => seq.is_none(),
            };
            this && work.spec.run == run
        };
        let mut taken = Vec::new();
        for tenant in self.tenants.values_mut() {
            taken.extend(tenant.take_waiting(run, meant));
        }
        // Also what agents have in hand: with its lease their answer is refused, and the place of the tenant
        // is free at once.
        let leased: Vec<LeaseId> =
            self.leased.iter().filter(|(_, leased)| meant(&leased.entry.work)).map(|(id, _)| *id).collect();
        taken.extend(leased.into_iter().filter_map(|id| self.take(id)));
        self.tenants.retain(|_, tenant| !tenant.runs.is_empty());
        taken
    }

    /// One place of a run is free again.
    fn free(&mut self, spec: &RunSpec) {
        if let Some(tenant) = self.tenants.get_mut(&spec.account) {
            tenant.free(&spec.run);
            if tenant.runs.is_empty() {
                self.tenants.remove(&spec.account);
            }
        }
    }

    /// Takes back what no agent extends and none has in hand. An agent is part of this process: where the
    /// process stood still for longer than a lease, the agent has its batches still and could not extend
    /// them.
    fn take_back_overdue(&mut self, now: Instant, lease_time: Duration) {
        let mut overdue = Vec::new();
        for (id, leased) in self.leased.iter_mut().filter(|(_, leased)| leased.until <= now) {
            match leased.in_hand.strong_count() {
                0 => overdue.push(*id),
                _ => leased.until = now + lease_time,
            }
        }
        for id in overdue {
            self.take_back(id);
        }
    }

    /// Queues work again whose agent is gone or can't do it, or answers it as lost.
    fn take_back(&mut self, id: LeaseId) {
        let Some(entry) = self.take(id) else { return };
        if entry.deliveries >= DELIVERIES {
            // The receiver is gone if the batch was given up.
            let _ = entry.reply.send(WorkOutcome::Lost);
        } else if !entry.reply.is_closed() {
            // It has waited its turn already. One that its submitter has given up is dropped instead.
            self.queue(entry, true);
        }
    }
}

#[async_trait]
impl Dispatch for Embedded {
    async fn submit(&self, work: Work) -> Result<PendingWork, Closed> {
        let (reply, outcome) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.queue(Entry { work, deliveries: 0, reply }, false);
        drop(state);
        // The round may have been empty, and agents wait.
        self.changed.notify_one();
        // Nothing of this queue outlives the process: there is nothing to acknowledge when the outcome is
        // dealt with.
        Ok(PendingWork { outcome, _kept: None })
    }

    async fn cancel(&self, run: &str, seq: u64) {
        let over = self.lock().take_all(run, Some(seq));
        // A place of the tenant may be free.
        self.changed.notify_one();
        for entry in over {
            // The receiver is gone if the batch was given up.
            let _ = entry.reply.send(WorkOutcome::Cancelled);
        }
    }

    async fn end_run(&self, run: &str) {
        let over = self.lock().take_all(run, None);
        self.changed.notify_one();
        for entry in over {
            // The receiver is gone if the batch was given up.
            let _ = entry.reply.send(WorkOutcome::Cancelled);
        }
        // After the answers: an agent that ends its workers finds its leases gone. Without an agent there are
        // no workers to end.
        let _ = self.ended.send(run.to_owned());
    }

    async fn used(&self) -> Option<Used> {
        self.uses.next().await
    }

    async fn close(&self) {
        self.closed();
    }
}

#[async_trait]
impl WorkSource for Embedded {
    async fn lease(&self) -> Result<Lease, Closed> {
        loop {
            // Made before the look: a change between the look and the wait wakes it all the same.
            let changed = self.changed.notified();
            match self.try_lease()? {
                Ok(lease) => return Ok(lease),
                Err(Some(until)) => drop(tokio::time::timeout_at(until.into(), changed).await),
                Err(None) => changed.await,
            }
        }
    }

    async fn prepare_uploads(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable> {
        // The gateway's files are this machine's.
        Ok(Arc::clone(spec))
    }

    async fn used(&self, _payer: &Payer, run: &str, cpu: Duration) -> Option<bool> {
        self.uses.report(run, cpu).await
    }

    async fn revoked(&self, lease: LeaseId) {
        let revoked = self.lock().leased.get(&lease).map(|leased| Arc::clone(&leased.revoked));
        if let Some(revoked) = revoked {
            revoked.notified().await;
        }
    }

    async fn extend(&self, lease: LeaseId) -> bool {
        match self.lock().leased.get_mut(&lease) {
            Some(leased) => {
                leased.until = Instant::now() + self.lease_time;
                true
            }
            None => false,
        }
    }

    async fn answer(&self, lease: LeaseId, outcome: WorkOutcome) -> bool {
        let Some(entry) = self.lock().take(lease) else { return false };
        // A place of its tenant's quota is free: more of its work may wait for one.
        self.changed.notify_one();
        // The receiver is gone if the batch was given up.
        let _ = entry.reply.send(outcome);
        true
    }

    async fn nack(&self, lease: LeaseId) {
        self.lock().take_back(lease);
        self.changed.notify_one();
    }

    fn ended_runs(&self) -> broadcast::Receiver<String> {
        self.ended.subscribe()
    }

    async fn close(&self) {
        self.closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::conformance::{self, Sides};

    #[tokio::test]
    async fn the_embedded_queue_keeps_what_dispatch_promises() {
        conformance::all(async |quota, lease_time| {
            let embedded = Arc::new(Embedded::new(quota, lease_time));
            Sides { dispatch: Arc::clone(&embedded) as Arc<dyn Dispatch>, source: embedded }
        })
        .await;
    }

    #[tokio::test]
    async fn a_run_that_holds_the_whole_quota_keeps_no_other_of_its_account_waiting() {
        let embedded = Arc::new(Embedded::new(4, Duration::from_mins(10)));
        let sides = Sides { dispatch: Arc::clone(&embedded) as Arc<dyn Dispatch>, source: embedded };
        let mut waiting = Vec::new();
        for seq in 0..6 {
            waiting.push(sides.submit(1, "held", seq).await);
        }
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(sides.lease().await);
        }
        sides.nothing_to_lease().await;
        for seq in 0..6 {
            waiting.push(sides.submit(1, "next", seq).await);
        }
        // Its half of the quota, whatever the other has.
        let next = [sides.lease().await, sides.lease().await];
        assert!(next.iter().all(|lease| lease.work.spec.run == "next"), "{next:?}");
        sides.nothing_to_lease().await;
        // The first one has more than its half: what it gives back is for the other.
        for lease in &held[..2] {
            assert!(sides.answer(lease).await);
        }
        sides.nothing_to_lease().await;
        assert!(sides.answer(&next[0]).await);
        assert_eq!(sides.lease().await.work.spec.run, "next");
        assert!(sides.answer(&held[2]).await);
        assert_eq!(sides.lease().await.work.spec.run, "held");
        sides.dispatch.end_run("next").await;
        // Alone again, it has all of it.
        assert_eq!(sides.lease().await.work.spec.run, "held");
    }
}
