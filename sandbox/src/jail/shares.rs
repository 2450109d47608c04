//! Decides which accounts' jails the kernel runs first: those that have used less than half an equal share of late. Equal
//! weights alone give each account its share, but an account that computes now and then waits for a turn of each one that
//! computes without end: beside all attacks of `scripts/attack` a tenant of small batches kept 0.06 to 0.13 of its throughput on 2
//! cores (Linux 6.18, 2026-11-30), and about 0.3 with those marked idle that are not behind their share. Called by `cgroup`.

use std::collections::HashMap;
use std::time::Duration;

/// How often the use of CPU time is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// How many times the weight of the others an account has that is behind its share, where the kernel marks no group idle.
pub(super) const FAVOR: u64 = 16;
/// Part of what was measured before that still counts at the next look: a second ago counts a seventh.
const KEPT: f64 = 0.9;
/// An account that uses less of a core than this is asleep, and has no part in the share.
const ASLEEP: f64 = 0.01;

/// CPU time that each account's jails have used of late.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<i64, Share>);

#[derive(Debug)]
struct Share {
    used: Duration,
    /// Cores used, on average of the last looks.
    rate: f64,
    favored: bool,
}

impl Shares {
    /// Takes what each account has used since it began, `passed` after the last look. Returns the accounts whose weight is to
    /// change, and whether they are favored from now on. A new account is favored.
    pub(super) fn look(&mut self, passed: Duration, used: &[(i64, Duration)]) -> Vec<(i64, bool)> {
        let passed = passed.as_secs_f64().max(1e-6);
        self.0.retain(|account, _| used.iter().any(|(there, _)| there == account));
        for (account, used) in used {
            let share = self.0.entry(*account).or_insert(Share { used: *used, rate: 0.0, favored: false });
            let cores = used.saturating_sub(share.used).as_secs_f64() / passed;
            share.rate = KEPT * share.rate + (1.0 - KEPT) * cores;
            share.used = *used;
        }
        let awake = self.0.values().filter(|share| share.rate > ASLEEP);
        let (number, sum) = awake.fold((0, 0.0), |(number, sum), share| (number + 1, sum + share.rate));
        let equal = sum / f64::from(number.max(1));
        let mut changed = Vec::new();
        for (account, share) in &mut self.0 {
            // An account that computes alone keeps the favor: the kernel places threads of the service on CPUs that run an idle
            // group, and they wait there for its jails.
            let favored = number < 2 || share.rate <= ASLEEP || share.rate < equal / 2.0;
            if favored != share.favored {
                share.favored = favored;
                changed.push((*account, favored));
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_behind_its_share_is_favored_until_it_has_caught_up() {
        let mut shares = Shares::default();
        let mut used = [(1, Duration::ZERO), (2, Duration::ZERO), (3, Duration::ZERO)];
        let mut favored = HashMap::new();
        let mut looks = |shares: &mut Shares, number: usize, millis: [u64; 3]| {
            for _ in 0..number {
                for ((_, used), more) in used.iter_mut().zip(millis) {
                    *used += Duration::from_millis(more);
                }
                favored.extend(shares.look(LOOK, &used));
            }
            [1, 2, 3].map(|account| favored[&account])
        };
        // All begin with the favor; two compute without end, one now and then.
        assert_eq!(looks(&mut shares, 1, [0, 0, 0]), [true; 3]);
        assert_eq!(looks(&mut shares, 30, [45, 45, 5]), [false, false, true]);
        // It computes as much as the others, and then more.
        assert!(!looks(&mut shares, 100, [30, 30, 40])[2]);
        assert_eq!(looks(&mut shares, 100, [45, 45, 0]), [false, false, true]);
    }

    #[test]
    fn an_account_that_computes_alone_keeps_the_favor() {
        let mut shares = Shares::default();
        let mut used = Duration::ZERO;
        for look in 0..100 {
            let changed = shares.look(LOOK, &[(1, used), (2, Duration::ZERO)]);
            let wanted = if look == 0 { vec![(1, true), (2, true)] } else { Vec::new() };
            let mut changed: Vec<_> = changed.into_iter().collect();
            changed.sort_unstable();
            assert_eq!(changed, wanted);
            used += 2 * LOOK;
        }
    }

    #[test]
    fn accounts_that_are_gone_are_forgotten() {
        let mut shares = Shares::default();
        shares.look(LOOK, &[(1, Duration::ZERO), (2, Duration::ZERO)]);
        shares.look(LOOK, &[(2, Duration::ZERO)]);
        assert_eq!(shares.0.len(), 1);
    }
}
