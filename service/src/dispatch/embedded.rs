//! Dispatch within one process: a queue for each tenant, and a turn that goes round among them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast, oneshot};

use super::{
    Closed, Dispatch, Lease, LeaseId, Lessor, Payer, RunSpec, Submitted, Task, Unavailable, Used, Uses,
    Verdict, Work,
};

/// Agents that may lose the same work before it is given up.
const DELIVERIES: u32 = 5;

/// Queues in this process.
#[derive(Debug)]
pub struct Embedded {
    state: Mutex<State>,
    /// There is something to lease, or there never will be.
    news: Notify,
    ended: broadcast::Sender<String>,
    /// What one tenant may have in agents' hands.
    quota: usize,
    /// Nothing is heard of work for so long: its agent is gone.
    lease_time: Duration,
    uses: Uses,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<i64, Tenant>,
    /// Tenants with work that waits, in the order of their turns.
    turn: VecDeque<i64>,
    leased: HashMap<LeaseId, Leased>,
    next: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Tenant {
    waiting: VecDeque<Entry>,
    leased: usize,
}

#[derive(Debug)]
struct Entry {
    work: Work,
    deliveries: u32,
    reply: oneshot::Sender<Verdict>,
}

#[derive(Debug)]
struct Leased {
    entry: Entry,
    until: Instant,
    /// Whether its agent still has it.
    in_hand: Weak<()>,
    /// Its agent waits for this, to leave off.
    revoked: Arc<Notify>,
}

impl Embedded {
    /// Empty queues.
    pub fn new(quota: usize, lease_time: Duration) -> Self {
        let (ended, _) = broadcast::channel(1024);
        let (news, uses) = (Notify::new(), Uses::default());
        Embedded { state: Mutex::default(), news, ended, quota: quota.max(1), lease_time, uses }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) {
        self.lock().closed = true;
        self.news.notify_waiters();
        self.news.notify_one();
    }

    /// Leases something if there is something; else says when a lease ends at the latest.
    fn try_lease(&self) -> Result<Result<Lease, Option<Instant>>, Closed> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        state.take_back_overdue(now, self.lease_time);
        for _ in 0..state.turn.len() {
            let Some(account) = state.turn.pop_front() else { break };
            let Some(tenant) = state.tenants.get_mut(&account) else { continue };
            if tenant.leased >= self.quota {
                state.turn.push_back(account);
                continue;
            }
            let Some(mut entry) = tenant.waiting.pop_front() else { continue };
            tenant.leased += 1;
            if !tenant.waiting.is_empty() {
                state.turn.push_back(account);
            }
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
            let more = !state.turn.is_empty();
            drop(guard);
            if more {
                self.news.notify_one();
            }
            return Ok(Ok(Lease { id, lasts: self.lease_time, work, payer: Payer::default(), in_hand }));
        }
        if state.closed {
            return Err(Closed);
        }
        Ok(Err(state.leased.values().map(|leased| leased.until).min()))
    }
}

impl State {
    fn queue(&mut self, entry: Entry, first: bool) {
        let account = entry.work.spec.account;
        let tenant = self.tenants.entry(account).or_default();
        if tenant.waiting.is_empty() && !self.turn.contains(&account) {
            self.turn.push_back(account);
        }
        match first {
            true => tenant.waiting.push_front(entry),
            false => tenant.waiting.push_back(entry),
        }
    }

    fn take(&mut self, id: LeaseId) -> Option<Entry> {
        let Leased { entry, revoked, .. } = self.leased.remove(&id)?;
        revoked.notify_one();
        self.free(entry.work.spec.account);
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
            let (of_it, kept) = std::mem::take(&mut tenant.waiting)
                .into_iter()
                .partition::<VecDeque<Entry>, _>(|entry| meant(&entry.work));
            tenant.waiting = kept;
            taken.extend(of_it);
        }
        let leased: Vec<LeaseId> =
            self.leased.iter().filter(|(_, leased)| meant(&leased.entry.work)).map(|(id, _)| *id).collect();
        taken.extend(leased.into_iter().filter_map(|id| self.take(id)));
        self.tenants.retain(|_, tenant| tenant.leased > 0 || !tenant.waiting.is_empty());
        taken
    }

    /// One place of a tenant is free again.
    fn free(&mut self, account: i64) {
        if let Some(tenant) = self.tenants.get_mut(&account) {
            tenant.leased -= 1;
            if tenant.leased == 0 && tenant.waiting.is_empty() {
                self.tenants.remove(&account);
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

    /// Its agent is gone, or can't do it.
    fn take_back(&mut self, id: LeaseId) {
        let Some(entry) = self.take(id) else { return };
        if entry.deliveries >= DELIVERIES {
            let _gone = entry.reply.send(Verdict::Lost);
        } else if !entry.reply.is_closed() {
            // It has waited its turn already.
            self.queue(entry, true);
        }
    }
}

#[async_trait]
impl Dispatch for Embedded {
    async fn submit(&self, work: Work) -> Result<Submitted, Closed> {
        let (reply, verdict) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.queue(Entry { work, deliveries: 0, reply }, false);
        drop(state);
        self.news.notify_one();
        Ok(Submitted { verdict, _kept: None })
    }

    async fn cancel(&self, run: &str, seq: u64) {
        let over = self.lock().take_all(run, Some(seq));
        self.news.notify_one();
        for entry in over {
            let _gone = entry.reply.send(Verdict::Cancelled);
        }
    }

    async fn end_run(&self, run: &str) {
        let over = self.lock().take_all(run, None);
        self.news.notify_one();
        for entry in over {
            let _gone = entry.reply.send(Verdict::Cancelled);
        }
        // No agent listens: no agent has workers of it.
        let _nobody = self.ended.send(run.to_owned());
    }

    async fn used(&self) -> Option<Used> {
        self.uses.next().await
    }

    async fn close(&self) {
        self.closed();
    }
}

#[async_trait]
impl Lessor for Embedded {
    async fn lease(&self) -> Result<Lease, Closed> {
        loop {
            let news = self.news.notified();
            match self.try_lease()? {
                Ok(lease) => return Ok(lease),
                Err(Some(until)) => drop(tokio::time::timeout_at(until.into(), news).await),
                Err(None) => news.await,
            }
        }
    }

    async fn lay_out(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable> {
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

    async fn answer(&self, lease: LeaseId, verdict: Verdict) -> bool {
        let Some(entry) = self.lock().take(lease) else { return false };
        // Its tenant may have more than its quota waiting.
        self.news.notify_one();
        let _gone = entry.reply.send(verdict);
        true
    }

    async fn give_back(&self, lease: LeaseId) {
        self.lock().take_back(lease);
        self.news.notify_one();
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
            Sides { dispatch: Arc::clone(&embedded) as Arc<dyn Dispatch>, lessor: embedded }
        })
        .await;
    }
}
