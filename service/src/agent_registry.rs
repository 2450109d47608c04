//! Registry of agents and of what they have in hand, for the operator's page. Agents of this process write it, and what
//! is heard of others; the operator's page reads it. In memory: an agent that is gone is not in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::LockUnpoisoned;
use serde::{Deserialize, Serialize};

use crate::clock::now_ms;

/// Workers that an agent of another process is counted for at most, whatever it says.
const WORKERS: usize = 1024;
/// Agents of other processes that are known at most.
const AGENTS: usize = 1024;
/// Bytes of each of an agent's words.
const WORDS: usize = 256;

/// The agents. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AgentRegistry(Arc<Mutex<Seats>>);

#[derive(Debug, Default)]
struct Seats {
    here: Vec<Weak<Registration>>,
    /// Agents of other processes, by key, and until when they are taken to be there.
    elsewhere: BTreeMap<String, (AgentState, Instant)>,
}

/// An agent's place: it is in the roster as long as it holds this.
#[derive(Debug)]
pub struct Registration {
    name: String,
    machine: String,
    workers: usize,
    since_ms: i64,
    heard_ms: AtomicI64,
    in_hand: AtomicU64,
    answered: AtomicU64,
    given_back: AtomicU64,
    pools: AtomicU64,
}

/// An agent as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentState {
    /// Its name.
    pub name: String,
    /// What it runs on: processors, kernel, jail; empty where it is this service's own.
    pub machine: String,
    /// Its version.
    pub version: String,
    /// Workers that it starts for each run.
    pub workers: usize,
    /// Milliseconds since 1970.
    pub since_ms: i64,
    /// Milliseconds since 1970.
    pub heard_ms: i64,
    /// Leases that it holds now.
    pub in_hand: u64,
    /// Leases that it has answered.
    pub answered: u64,
    /// Leases that it has given back.
    pub given_back: u64,
    /// Runs that have workers there now.
    pub pools: u64,
}

impl AgentState {
    /// What another process says of itself, as far as it can be: runs know the sum of all workers.
    fn bounded(mut self) -> Self {
        self.workers = self.workers.min(WORKERS);
        for words in [&mut self.name, &mut self.machine, &mut self.version] {
            words.truncate(words.floor_char_boundary(WORDS));
        }
        let now = now_ms();
        self.since_ms = self.since_ms.clamp(0, now);
        self.heard_ms = self.heard_ms.clamp(0, now);
        self
    }
}

impl AgentRegistry {
    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock_unpoisoned()
    }

    /// An agent begins to work.
    pub fn join(&self, name: &str, machine: &str, workers: usize) -> Arc<Registration> {
        let now = now_ms();
        let seat = Arc::new(Registration {
            name: name.to_owned(),
            machine: machine.to_owned(),
            workers,
            since_ms: now,
            heard_ms: now.into(),
            in_hand: 0.into(),
            answered: 0.into(),
            given_back: 0.into(),
            pools: 0.into(),
        });
        self.lock().here.push(Arc::downgrade(&seat));
        seat
    }

    /// An agent of another process is there, and is taken to be for so long.
    pub fn hear(&self, key: &str, state: AgentState, lease: Duration) {
        let (mut seats, now) = (self.lock(), Instant::now());
        if seats.elsewhere.len() >= AGENTS {
            seats.elsewhere.retain(|_, (_, until)| *until > now);
        }
        if seats.elsewhere.len() < AGENTS || seats.elsewhere.contains_key(key) {
            seats.elsewhere.insert(key.to_owned(), (state.bounded(), now + lease));
        }
    }

    /// An agent of another process is gone.
    pub fn leave(&self, key: &str) {
        self.lock().elsewhere.remove(key);
    }

    /// Workers of all agents together.
    pub fn workers(&self) -> usize {
        self.agents().iter().fold(0, |sum, agent| sum.saturating_add(agent.workers))
    }

    /// All agents: those of this process, in the order in which they joined, and the others.
    pub fn agents(&self) -> Vec<AgentState> {
        let mut seats = self.lock();
        seats.here.retain(|seat| seat.strong_count() > 0);
        let instant = Instant::now();
        seats.elsewhere.retain(|_, (_, until)| *until > instant);
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let state = |seat: Arc<Registration>| AgentState {
            name: seat.name.clone(),
            machine: seat.machine.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: seat.workers,
            since_ms: seat.since_ms,
            heard_ms: seat.heard_ms.load(Ordering::Relaxed),
            in_hand: now(&seat.in_hand),
            answered: now(&seat.answered),
            given_back: now(&seat.given_back),
            pools: now(&seat.pools),
        };
        let elsewhere = seats.elsewhere.values().map(|(state, _)| state.clone());
        seats.here.iter().filter_map(Weak::upgrade).map(state).chain(elsewhere).collect()
    }
}

impl Registration {
    fn heard(&self) {
        self.heard_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// It has leased something; that counts as in hand until the guard is dropped.
    pub fn takes(self: &Arc<Self>) -> LeaseGuard {
        self.heard();
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        LeaseGuard(Arc::clone(self))
    }

    /// So many runs have workers now.
    pub fn pools(&self, pools: usize) {
        self.heard();
        self.pools.store(pools as u64, Ordering::Relaxed);
    }
}

/// A lease in an agent's hands.
#[derive(Debug)]
pub struct LeaseGuard(Arc<Registration>);

impl LeaseGuard {
    /// It is answered.
    pub fn answered(self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// It is given back.
    pub fn given_back(self) {
        self.0.given_back.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.0.heard();
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_of_other_processes_say_is_bounded() {
        let roster = AgentRegistry::default();
        let lease = Duration::from_mins(1);
        let liar = AgentState {
            name: "é".repeat(10_000),
            workers: 1 << 62,
            heard_ms: i64::MIN,
            ..AgentState::default()
        };
        for n in 0..2000 {
            roster.hear(&n.to_string(), liar.clone(), lease);
        }
        let agents = roster.agents();
        assert!(agents.len() <= AGENTS && agents.iter().all(|agent| agent.name.len() <= WORDS));
        assert!(roster.workers() <= AGENTS * WORKERS && agents[0].heard_ms == 0);
        // Those that are gone make room.
        let roster = AgentRegistry::default();
        for n in 0..AGENTS {
            roster.hear(&n.to_string(), liar.clone(), Duration::ZERO);
        }
        roster.hear("new", AgentState { workers: 3, ..AgentState::default() }, lease);
        assert_eq!(roster.workers(), 3);
    }
}
