//! All workloads, by name.

use super::{
    break_even, cloud, coarse, confined, crash, idle, infinite, inline, large, memory, reported, start, tiny,
    uneven,
};
use crate::measure::Method;
use crate::report::Section;

pub(crate) type Workload = fn(&Method) -> Section;

/// All of them, with their names.
pub(crate) const ALL: [(&str, Workload); 14] = [
    ("W1", start::measure),
    ("W2", tiny::measure),
    ("W3", coarse::measure),
    ("BREAK-EVEN", break_even::measure),
    ("W4", uneven::measure),
    ("W5", large::measure),
    ("W6", infinite::measure),
    ("INLINE", inline::measure),
    ("IDLE", idle::measure),
    ("W7", crash::measure),
    ("W8", memory::measure),
    ("SANDBOX", confined::measure),
    ("TIMINGS", reported::measure),
    ("CLOUD", cloud::measure),
];

/// The workloads of these names; all if there are none.
///
/// # Errors
/// If a name is not known, with those that are.
pub(crate) fn choose(names: &[String]) -> Result<Vec<(&'static str, Workload)>, String> {
    let find = |name: &String| {
        let found = ALL.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let known = || ALL.map(|(name, _)| name).join(", ");
        found.ok_or_else(|| format!("{name} is no workload; there are {}", known()))
    };
    match names {
        [] => Ok(ALL.to_vec()),
        names => names.iter().map(find).collect(),
    }
}
