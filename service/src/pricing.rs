//! Prices of work, and how much of it a reservation buys: pure arithmetic on integers. Asked by the ledger before a
//! batch is dispatched and by the gateway when it is answered.

use std::time::Duration;

pub use fastmap_backends::cloud::Prices;

/// Millionths of a credit.
pub type Microcredits = i64;

/// Millionths in a credit.
pub const CREDIT: Microcredits = 1_000_000;

/// 10 credits for an hour of CPU time, 10 for a gigabyte of answers.
pub const DEFAULT: Prices = Prices { cpu_hour: 10 * CREDIT, result_gb: 10 * CREDIT };

/// The least a batch is dispatched for.
const LEAST: Work = Work { cpu: Duration::from_secs(1), bytes: 64 * 1024 };
/// One batch reserves no more than this part of what is left, so that some can run side by side near the end.
pub(crate) const SHARE: Microcredits = 4;

/// CPU time beside batches that each run gets for nothing: its workers' start, and batches that were cancelled.
pub const FREE: Duration = Duration::from_secs(1);
/// What all runs of an account get of it at once, and what part of the clock gives it back: runs that are opened and ended
/// in a loop get a hundredth of a processor.
pub const FREE_AT_ONCE: Duration = Duration::from_secs(30);
const GIVEN_BACK: u32 = 100;

/// What a batch may use, or has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// CPU time.
    pub cpu: Duration,
    /// Bytes of results.
    pub bytes: u64,
}

/// A reservation and what it buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What is reserved.
    pub hold: Microcredits,
    /// What the batch may use.
    pub work: Work,
    /// It is less than what was wanted.
    pub short: bool,
}

/// What that much work costs, rounded up.
pub fn cost(prices: &Prices, work: Work) -> Microcredits {
    const HOUR_NS: u128 = 3600 * 1_000_000_000;
    let priced = |amount: u128, unit: u128, price: Microcredits| {
        (amount * u128::from(price.max(0).unsigned_abs())).div_ceil(unit)
    };
    let cpu = priced(work.cpu.as_nanos(), HOUR_NS, prices.cpu_hour);
    let bytes = priced(u128::from(work.bytes), 1_000_000_000, prices.result_gb);
    Microcredits::try_from(cpu.saturating_add(bytes)).unwrap_or(Microcredits::MAX)
}

/// The least that must be left for a batch that is wanted to be able to use `wanted`.
pub fn least(prices: &Prices, wanted: Work) -> Microcredits {
    cost(prices, LEAST).min(cost(prices, wanted))
}

/// Reserves for a batch that is wanted to be able to use `wanted`, out of what is `available`; `None` if that is
/// not enough for any batch.
pub fn grant(prices: &Prices, wanted: Work, available: Microcredits) -> Option<Grant> {
    let full = cost(prices, wanted);
    let least = least(prices, wanted);
    if available < least {
        return None;
    }
    let most = (available / SHARE).max(least);
    if full <= most {
        return Some(Grant { hold: full, work: wanted, short: false });
    }
    // Rounded down, so that what it buys is never worth more than the hold.
    let part = |amount: u128| amount * u128::from(most.unsigned_abs()) / u128::from(full.unsigned_abs());
    let work = Work {
        cpu: Duration::from_nanos(u64::try_from(part(wanted.cpu.as_nanos())).unwrap_or(u64::MAX)),
        bytes: u64::try_from(part(u128::from(wanted.bytes))).unwrap_or(u64::MAX),
    };
    Some(Grant { hold: most, work, short: true })
}

/// The part of `cpu`, used beside batches, that is free, and what the account has had of it then. `of_run` and `of_account`
/// were free before, the account's as of a time that is `since` ago.
pub fn free(cpu: Duration, of_run: Duration, of_account: Duration, since: Duration) -> (Duration, Duration) {
    let of_account = of_account.saturating_sub(since / GIVEN_BACK);
    let left = FREE.saturating_sub(of_run).min(FREE_AT_ONCE.saturating_sub(of_account));
    let free = cpu.min(left);
    (free, of_account + free)
}

/// Credits as people write them: `12.5`.
pub fn show(amount: Microcredits) -> String {
    let (sign, amount) = (if amount < 0 { "-" } else { "" }, amount.unsigned_abs());
    let (whole, part) = (amount / CREDIT.unsigned_abs(), amount % CREDIT.unsigned_abs());
    let digits = format!("{part:06}");
    match digits.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        digits => format!("{sign}{whole}.{digits}"),
    }
}

/// Reads what [`show`] writes.
///
/// # Errors
/// In words.
pub fn read(text: &str) -> Result<Microcredits, String> {
    let wrong = || format!("{text:?} is not a number of credits (like 10, 0.5 or -3; at most 6 decimals)");
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<Microcredits>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    if part.len() > 6 {
        return Err(wrong());
    }
    let amount = number(whole)?.checked_mul(CREDIT).and_then(|amount| {
        let part = number(&format!("{part:0<6}")).ok()?;
        amount.checked_add(part)
    });
    amount.map(|amount| sign * amount).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_price_list_is_what_the_readme_says() {
        let hour = Work { cpu: Duration::from_hours(1), bytes: 0 };
        assert_eq!(cost(&DEFAULT, hour), 10 * CREDIT);
        let gigabyte = Work { cpu: Duration::ZERO, bytes: 1_000_000_000 };
        assert_eq!(cost(&DEFAULT, gigabyte), 10 * CREDIT);
        assert_eq!(cost(&DEFAULT, Work { cpu: Duration::from_nanos(1), bytes: 0 }), 1);
        assert_eq!(cost(&DEFAULT, Work::default()), 0);
    }

    #[test]
    fn credits_are_read_as_they_are_shown() {
        for (amount, text) in
            [(0, "0"), (CREDIT, "1"), (-CREDIT / 2, "-0.5"), (1, "0.000001"), (12_340_000, "12.34")]
        {
            assert_eq!(show(amount), text);
            assert_eq!(read(text), Ok(amount));
        }
        for wrong in ["", "x", "1.0000001", "--1", "1e3", "9999999999999999", "+1", "1.-5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_gets_a_free_second_and_runs_in_a_loop_a_hundredth_of_a_processor() {
        let seconds = Duration::from_secs;
        assert_eq!(free(seconds(3), Duration::ZERO, Duration::ZERO, Duration::ZERO), (FREE, FREE));
        assert_eq!(free(seconds(3), FREE, FREE, Duration::ZERO), (Duration::ZERO, FREE));
        let (mut of_account, mut given) = (Duration::ZERO, Duration::ZERO);
        // Ten runs a second, each of which computes for a second, for an hour.
        for _ in 0..36_000 {
            let (free, of_now) = free(seconds(1), Duration::ZERO, of_account, Duration::from_millis(100));
            given += free;
            of_account = of_now;
        }
        assert!(given <= FREE_AT_ONCE + seconds(36), "{given:?}");
    }

    proptest! {
        /// A reservation is never more than there is, and what it buys is never worth more than it.
        #[test]
        fn a_grant_is_covered(available in 0i64..100_000_000, ms in 0u64..10_000_000, bytes in 0u64..1 << 32) {
            let wanted = Work { cpu: Duration::from_millis(ms), bytes };
            if let Some(grant) = grant(&DEFAULT, wanted, available) {
                prop_assert!(grant.hold <= available);
                prop_assert!(grant.hold >= least(&DEFAULT, wanted));
                // Each of two amounts is rounded up on its own.
                prop_assert!(cost(&DEFAULT, grant.work) <= grant.hold + 2);
                prop_assert_eq!(grant.short, grant.work != wanted);
            } else {
                prop_assert!(available < least(&DEFAULT, wanted));
            }
        }
    }
}
