//! Fair pull: which tenant an agent asks for work next, and whose work it takes next. It only decides: `intake` asks
//! and takes.
//!
//! Each tenant has a consumer of its own; an agent has requests open at several, and what comes stands here until it is
//! leased: of the tenant that was served longest ago. As much is asked for as the agent has room for, shared out evenly
//! among the tenants, at least one of each; where there are many, they are asked in turn. Work without a lease is given back
//! soon, for another agent may be idle.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Tenants that are asked at a time.
const ASKED: usize = 16;
/// How long a request waits for work.
const WAITS: Duration = Duration::from_secs(5);
/// The same where others wait to be asked.
const WAITS_AMONG_MANY: Duration = Duration::from_millis(250);
/// A request whose end was not reported is forgotten this long after its time.
const OVERDUE: Duration = Duration::from_secs(1);
/// A tenant is asked while a gateway has announced it within this time.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// Work that was not leased within this time is given back.
const UNLEASED: Duration = Duration::from_millis(500);
/// A tenant whose request ended long before its time is not asked for this long, then for twice as long, up to the second:
/// the servers refuse at once where a consumer is missing, and would be asked again without a pause.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A turn is kept for this time for a tenant whose work is in flight.
const GRACE: Duration = Duration::from_millis(3);

/// A request to a tenant's consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pull {
    pub(super) account: i64,
    /// Its number, by which its end is reported.
    pub(super) id: u64,
    /// Most work that it may bring.
    pub(super) batch: usize,
    /// How long it waits at the server.
    pub(super) expires: Duration,
}

/// Answer to the question for the next work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// The work to lease.
    Work(T),
    /// A tenant's turn is kept until then: look again at that time at the latest.
    At(Instant),
    /// Nothing, until work arrives.
    Nothing,
}

#[derive(Debug)]
struct Open {
    id: u64,
    left: usize,
    expires: Duration,
    until: Instant,
}

#[derive(Debug)]
struct Tenant<T> {
    announced: Instant,
    open: Vec<Open>,
    ready: VecDeque<(T, Instant)>,
    /// Work that waited at the consumer when the last was delivered.
    pending: u64,
    /// When it was served, by count.
    served: u64,
    /// Since when its turn is kept for it.
    reserved_since: Option<Instant>,
    /// Its last requests have ended at once: it is not asked before then, and waits this long the next time.
    refused: Option<(Instant, Duration)>,
}

impl<T> Tenant<T> {
    fn coming(&self) -> usize {
        self.open.iter().map(|open| open.left).sum()
    }

    /// Asks for what is missing to its share, once half of it is.
    fn top_up(
        &mut self,
        account: i64,
        share: usize,
        expires: Duration,
        next: &mut u64,
        now: Instant,
    ) -> Option<Pull> {
        // Half a share at a time: a request for each single work would be one message more for each batch.
        let have = self.coming() + self.ready.len();
        if have > share / 2 || self.refused.is_some_and(|(until, _)| until > now) {
            return None;
        }
        *next += 1;
        let pull = Pull { account, id: *next, batch: share - have, expires };
        self.open.push(Open { id: pull.id, left: pull.batch, expires, until: now + expires });
        Some(pull)
    }
}

/// The tenants, and what came of them.
#[derive(Debug)]
pub(super) struct FairPuller<T> {
    tenants: BTreeMap<i64, Tenant<T>>,
    /// In the order in which they are asked.
    ring: VecDeque<i64>,
    next: u64,
    served: u64,
}

impl<T> FairPuller<T> {
    /// No tenant yet.
    pub(super) fn new() -> Self {
        FairPuller { tenants: BTreeMap::new(), ring: VecDeque::new(), next: 0, served: 0 }
    }

    /// A gateway has announced that this tenant waits.
    pub(super) fn on_announced(&mut self, account: i64, now: Instant) {
        let served = self.served;
        let tenant = self.tenants.entry(account).or_insert_with(|| {
            self.ring.push_back(account);
            // It counts as served now: those that wait already come before it.
            let (open, ready) = (Vec::new(), VecDeque::new());
            Tenant { announced: now, open, ready, pending: 0, served, reserved_since: None, refused: None }
        });
        tenant.announced = now;
    }

    /// Requests to make, now that a caller waits for work and there is room for `room` leases.
    pub(super) fn pulls(&mut self, room: usize, now: Instant) -> Vec<Pull> {
        for tenant in self.tenants.values_mut() {
            // The end of a request may be lost with a connection: it must not count as work that is coming
            // for ever.
            tenant.open.retain(|open| open.until + OVERDUE > now);
        }
        // Not while requests are open: what they bring is counted by the tenant's entry.
        let gone = |tenant: &Tenant<T>| {
            tenant.announced + ANNOUNCED < now && tenant.open.is_empty() && tenant.ready.is_empty()
        };
        self.tenants.retain(|_, tenant| !gone(tenant));
        self.ring.retain(|account| self.tenants.contains_key(account));
        let at_once = self.ring.len().min(ASKED);
        // At least one of each, even if that is more than there is room for: what is not leased in time is
        // given back.
        let share = (room / at_once.max(1)).max(1);
        let expires = if self.ring.len() > ASKED { WAITS_AMONG_MANY } else { WAITS };
        let mut asked = self.tenants.values().filter(|tenant| tenant.coming() > 0).count();
        let mut pulls = Vec::new();
        // Tenants that are being asked keep their place in the ring, and get more requests before others get
        // their first.
        for at in 0..self.ring.len() {
            let Some(tenant) = self.tenants.get_mut(&self.ring[at]) else { continue };
            if tenant.coming() > 0 {
                pulls.extend(tenant.top_up(self.ring[at], share, expires, &mut self.next, now));
            }
        }
        for _ in 0..self.ring.len() {
            if asked >= ASKED {
                break;
            }
            self.ring.rotate_left(1);
            let Some(account) = self.ring.back() else { break };
            let Some(tenant) = self.tenants.get_mut(account).filter(|tenant| tenant.coming() == 0) else {
                continue;
            };
            let pull = tenant.top_up(*account, share, expires, &mut self.next, now);
            asked += usize::from(pull.is_some());
            pulls.extend(pull);
        }
        pulls
    }

    /// A request has brought something that is still to be made ready. It does not say which: the oldest is served first.
    pub(super) fn on_delivered(&mut self, account: i64, pending: u64) {
        let Some(tenant) = self.tenants.get_mut(&account) else { return };
        tenant.pending = pending;
        // The consumer is there: the next request need not wait.
        tenant.refused = None;
        if let Some(oldest) = tenant.open.first_mut() {
            oldest.left -= 1;
            if oldest.left == 0 {
                tenant.open.remove(0);
            }
        }
    }

    /// Something can be leased.
    pub(super) fn ready(&mut self, account: i64, work: T, now: Instant) {
        self.on_announced(account, now);
        if let Some(tenant) = self.tenants.get_mut(&account) {
            tenant.ready.push_back((work, now));
            tenant.reserved_since = None;
        }
    }

    /// A request is over. One that ends long before its time was refused.
    pub(super) fn on_request_end(&mut self, account: i64, id: u64, now: Instant) {
        let Some(tenant) = self.tenants.get_mut(&account) else { return };
        let Some(at) = tenant.open.iter().position(|open| open.id == id) else { return };
        let open = tenant.open.remove(at);
        // A request that has waited for at least half of its time was not refused: nothing came.
        tenant.refused = (now + open.expires / 2 < open.until).then(|| {
            let pause = tenant.refused.map_or(PAUSE, |(_, pause)| LONGEST_PAUSE.min(2 * pause));
            (now + pause, pause)
        });
    }

    /// Until when requests may still bring something; `None`: all are over.
    pub(super) fn open_until(&self, now: Instant) -> Option<Instant> {
        let open = self.tenants.values().flat_map(|tenant| &tenant.open);
        open.map(|open| open.until + OVERDUE).filter(|until| *until > now).max()
    }

    /// The next to lease: of the tenant that was served longest ago.
    pub(super) fn next(&mut self, now: Instant) -> Next<T> {
        // No turn is kept while nothing is here: there is nothing that could wait for it.
        let some_ready = self.tenants.values().any(|tenant| !tenant.ready.is_empty());
        if !some_ready {
            return Next::Nothing;
        }
        loop {
            let due =
                |tenant: &Tenant<T>| !tenant.ready.is_empty() || (tenant.pending > 0 && tenant.coming() > 0);
            let first =
                self.tenants.values_mut().filter(|tenant| due(tenant)).min_by_key(|tenant| tenant.served);
            let Some(tenant) = first else { return Next::Nothing };
            if let Some((work, _)) = tenant.ready.pop_front() {
                self.served += 1;
                tenant.served = self.served;
                return Next::Work(work);
            }
            let until = *tenant.reserved_since.get_or_insert(now) + GRACE;
            if until > now {
                return Next::At(until);
            }
            // It is late, perhaps because its quota is used up. Its next delivery shows again what waits at
            // the consumer.
            tenant.pending = 0;
            tenant.reserved_since = None;
        }
    }

    /// What was not leased in time.
    pub(super) fn stale(&mut self, now: Instant) -> Vec<T> {
        self.take(|_, since| since + UNLEASED <= now)
    }

    /// Takes out what is not leased and not to be.
    pub(super) fn take_if(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        self.take(|work, _| which(work))
    }

    fn take(&mut self, which: impl Fn(&T, Instant) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for tenant in self.tenants.values_mut() {
            let (out, stay) =
                std::mem::take(&mut tenant.ready).into_iter().partition(|(work, since)| which(work, *since));
            tenant.ready = stay;
            let out: VecDeque<(T, Instant)> = out;
            taken.extend(out.into_iter().map(|(work, _)| work));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bring(
        puller: &mut FairPuller<(i64, u64)>,
        pull: Pull,
        works: std::ops::Range<u64>,
        pending: u64,
        now: Instant,
    ) {
        for n in works {
            puller.on_delivered(pull.account, pending);
            puller.ready(pull.account, (pull.account, n), now);
        }
    }

    #[test]
    fn what_is_asked_for_is_shared_out_and_topped_up() {
        let now = Instant::now();
        let mut puller = FairPuller::new();
        assert_eq!(puller.pulls(8, now), []);
        puller.on_announced(1, now);
        let first = puller.pulls(8, now)[0];
        assert_eq!((first.account, first.batch), (1, 8));
        assert_eq!(puller.pulls(8, now), []);
        bring(&mut puller, first, 0..5, 9, now);
        for n in 0..5 {
            assert_eq!(puller.next(now), Next::Work((1, n)));
        }
        assert_eq!(puller.pulls(8, now).iter().map(|pull| pull.batch).collect::<Vec<_>>(), [5]);
        puller.on_announced(2, now);
        assert_eq!(
            puller.pulls(8, now).iter().map(|pull| (pull.account, pull.batch)).collect::<Vec<_>>(),
            [(2, 4)]
        );
    }

    #[test]
    fn who_has_room_for_one_asks_for_one() {
        let now = Instant::now();
        let mut puller = FairPuller::<()>::new();
        puller.on_announced(1, now);
        assert_eq!(puller.pulls(1, now).iter().map(|pull| pull.batch).collect::<Vec<_>>(), [1]);
        // More when there is more room.
        assert_eq!(puller.pulls(8, now).iter().map(|pull| pull.batch).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn tenants_are_served_in_turn_and_one_whose_work_is_on_its_way_is_waited_for_a_moment() {
        let now = Instant::now();
        let mut puller = FairPuller::new();
        puller.on_announced(1, now);
        puller.on_announced(2, now);
        let pulls = puller.pulls(8, now);
        bring(&mut puller, pulls[0], 0..4, 100, now);
        bring(&mut puller, pulls[1], 0..1, 100, now);
        assert_eq!(puller.next(now), Next::Work((1, 0)));
        assert_eq!(puller.next(now), Next::Work((2, 0)));
        assert_eq!(puller.next(now), Next::Work((1, 1)));
        assert_eq!(puller.next(now), Next::At(now + GRACE));
        bring(&mut puller, pulls[1], 1..2, 100, now);
        assert_eq!(puller.next(now), Next::Work((2, 1)));
        assert_eq!(puller.next(now), Next::Work((1, 2)));
        assert_eq!(puller.next(now), Next::At(now + GRACE));
        assert_eq!(puller.next(now + GRACE), Next::Work((1, 3)));
        assert_eq!(puller.next(now + GRACE), Next::Nothing);
    }

    #[test]
    fn many_tenants_are_asked_in_turn() {
        let now = Instant::now();
        let mut puller = FairPuller::<()>::new();
        (0..40).for_each(|account| puller.on_announced(account, now));
        let mut asked = Vec::new();
        for _ in 0..3 {
            let pulls = puller.pulls(8, now);
            assert!(pulls.len() <= ASKED && pulls.iter().all(|pull| pull.batch == 1));
            for pull in pulls {
                asked.push(pull.account);
                puller.on_request_end(pull.account, pull.id, now + WAITS);
            }
        }
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), 40);
    }

    #[test]
    fn a_request_that_ends_at_once_is_followed_by_a_pause_until_one_brings_something() {
        let mut now = Instant::now();
        let mut puller = FairPuller::new();
        puller.on_announced(1, now);
        let mut asked = 0;
        // For ten seconds each request ends when it is made, as where a consumer is missing.
        for _ in 0..10_000 {
            puller.on_announced(1, now);
            for pull in puller.pulls(8, now) {
                asked += 1;
                puller.on_request_end(1, pull.id, now);
            }
            now += Duration::from_millis(1);
        }
        assert!((8..12).contains(&asked), "{asked}");
        now += LONGEST_PAUSE;
        let pull = puller.pulls(1, now)[0];
        bring(&mut puller, pull, 0..1, 0, now);
        assert_eq!(puller.next(now), Next::Work((1, 0)));
        // One that has waited as long as it may is followed by the next at once.
        let pull = puller.pulls(1, now)[0];
        puller.on_request_end(1, pull.id, now + WAITS);
        assert_eq!(puller.pulls(1, now + WAITS).len(), 1);
    }

    #[test]
    fn work_without_a_lease_is_given_back_and_a_tenant_without_announcement_is_forgotten() {
        let now = Instant::now();
        let mut puller = FairPuller::new();
        puller.on_announced(1, now);
        let pull = puller.pulls(8, now)[0];
        bring(&mut puller, pull, 0..1, 0, now);
        assert_eq!(puller.stale(now), []);
        assert_eq!(puller.stale(now + UNLEASED), [(1, 0)]);
        let later = now + ANNOUNCED + WAITS + OVERDUE;
        assert_eq!(puller.pulls(8, later), []);
        assert!(puller.tenants.is_empty());
    }
}
