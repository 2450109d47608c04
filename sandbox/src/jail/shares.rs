//! Decides which accounts' jails the kernel runs first: those that recently used less than half of an equal
//! share. Equal weights alone give each account its share, but an account that computes now and then waits
//! for a time slice of each account that computes continuously. A tenant of small batches, beside all attacks
//! of `scripts/attack`, kept 0.06 to 0.13 of its throughput on 2 cores (Linux 6.18, 2026-11-30). With
//! accounts that are not behind their share marked idle, it kept about 0.3. Called by `cgroup`.

use std::collections::HashMap;
use std::time::Duration;

/// Interval at which the use of CPU time is measured.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);
/// Weight of an account that is behind its share, relative to the others. Used where the kernel can't mark
/// groups idle.
pub(super) const FAVOR: u64 = 16;
/// Decay of the average at each measurement: a rate of one second ago still counts by a seventh.
const DECAY: f64 = 0.9;
/// Cores below which an account is idle, and does not count for the share.
const IDLE_RATE: f64 = 0.01;

/// Recent CPU use of each account's jails.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<i64, Share>);

#[derive(Debug)]
struct Share {
    used: Duration,
    /// Cores used: a moving average of the last measurements.
    rate: f64,
    favored: bool,
}

impl Shares {
    /// Takes the total CPU time of each account, `passed` after the last measurement. Returns the accounts
    /// whose weight changes, and whether each is favored from now on. A new account is favored.
    pub(super) fn update(&mut self, passed: Duration, used: &[(i64, Duration)]) -> Vec<(i64, bool)> {
        let passed = passed.as_secs_f64().max(1e-6);
        self.0.retain(|account, _| used.iter().any(|(live_account, _)| live_account == account));
        for (account, used) in used {
            let share = self.0.entry(*account).or_insert(Share { used: *used, rate: 0.0, favored: false });
            let cores = used.saturating_sub(share.used).as_secs_f64() / passed;
            share.rate = DECAY * share.rate + (1.0 - DECAY) * cores;
            share.used = *used;
        }
        let awake = self.0.values().filter(|share| share.rate > IDLE_RATE);
        let (number, sum) = awake.fold((0, 0.0), |(number, sum), share| (number + 1, sum + share.rate));
        let equal = sum / f64::from(number.max(1));
        let mut changed = Vec::new();
        for (account, share) in &mut self.0 {
            // An account that computes alone stays favored. Otherwise the kernel places threads of the
            // service on CPUs that run the idle group, where they wait for its jails.
            let favored = number < 2 || share.rate <= IDLE_RATE || share.rate < equal / 2.0;
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
        let mut updates = |shares: &mut Shares, number: usize, millis: [u64; 3]| {
            for _ in 0..number {
                for ((_, used), more) in used.iter_mut().zip(millis) {
                    *used += Duration::from_millis(more);
                }
                favored.extend(shares.update(INTERVAL, &used));
            }
            [1, 2, 3].map(|account| favored[&account])
        };
        // All start favored; two compute continuously, one now and then.
        assert_eq!(updates(&mut shares, 1, [0, 0, 0]), [true; 3]);
        assert_eq!(updates(&mut shares, 30, [45, 45, 5]), [false, false, true]);
        // Now the third computes as much as the others, and then more.
        assert!(!updates(&mut shares, 100, [30, 30, 40])[2]);
        assert_eq!(updates(&mut shares, 100, [45, 45, 0]), [false, false, true]);
    }

    #[test]
    fn an_account_that_computes_alone_keeps_the_favor() {
        let mut shares = Shares::default();
        let mut used = Duration::ZERO;
        for step in 0..100 {
            let changed = shares.update(INTERVAL, &[(1, used), (2, Duration::ZERO)]);
            let wanted = if step == 0 { vec![(1, true), (2, true)] } else { Vec::new() };
            let mut changed: Vec<_> = changed.into_iter().collect();
            changed.sort_unstable();
            assert_eq!(changed, wanted);
            used += 2 * INTERVAL;
        }
    }

    #[test]
    fn accounts_that_are_gone_are_forgotten() {
        let mut shares = Shares::default();
        shares.update(INTERVAL, &[(1, Duration::ZERO), (2, Duration::ZERO)]);
        shares.update(INTERVAL, &[(2, Duration::ZERO)]);
        assert_eq!(shares.0.len(), 1);
    }
}
