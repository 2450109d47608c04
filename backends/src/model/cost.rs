//! Cost of a run, in credits.

use crate::model::words::noun;

/// Cost of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Millionths of a credit; 0 for work on this machine.
    pub microcredits: u64,
    /// The account's balance in millionths of a credit, if there is an account and its balance is known.
    pub balance: Option<i64>,
}

/// Formats millionths of a credit as credits, with as many decimals as needed.
pub fn credits(micro: i64) -> String {
    let (whole, rest) = (micro.unsigned_abs() / 1_000_000, micro.unsigned_abs() % 1_000_000);
    let sign = if micro < 0 { "-" } else { "" };
    let text = format!("{sign}{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Formats credits with their unit: `1 credit`, `2.5 credits`.
///
/// # Examples
///
/// ```
/// use fastmap_backends::in_credits;
///
/// assert_eq!([in_credits(1_000_000), in_credits(10_000)], ["1 credit", "0.01 credits"]);
/// ```
pub fn in_credits(micro: i64) -> String {
    format!("{} {}", credits(micro), noun(u64::from(micro == 1_000_000), "credit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_have_no_trailing_zeros() {
        for (micro, text) in [(0, "0"), (10_000_000, "10"), (1, "0.000001"), (-2_500_000, "-2.5")] {
            assert_eq!(credits(micro), text);
        }
    }
}
