//! Time zone and language of a program, sent with its runs: functions that format times or compare texts give
//! the same results in the service as on this machine. The variable for panic backtraces is sent as well.
//! Read by `run_thread` when it opens a run, checked by the gateway, set by the agent for the run's workers.

use std::collections::BTreeMap;
use std::path::Path;

use fastmap_sandbox::is_zone;
use serde::{Deserialize, Serialize};

/// Maximum number of variables: the C library knows a dozen.
const MAX_VARIABLES: usize = 20;
/// Maximum bytes of a variable's name, and of its value.
const MAX_NAME: usize = 32;
const MAX_VALUE: usize = 256;
/// Folders of the zone database; the link `/etc/localtime` points to a file in one.
const ZONES: [&str; 2] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo"];

/// Time zone and language of a client's program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Locale {
    /// Those of `TZ`, `LANG`, `LANGUAGE`, the `LC_…` and `RUST_BACKTRACE` that are set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The machine's time zone by its name in the zone database; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Locale {
    /// The locale of this process, without variables that can't be sent.
    pub fn of_this_process() -> Locale {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let is_valid = is_name(&name) && is_value(&value);
            is_valid.then_some((name, value))
        });
        let zone = ZONES.iter().find_map(|zones| {
            let link = std::fs::read_link("/etc/localtime").ok()?;
            // Most links are absolute; some are relative, with `..`.
            let text = link.to_str()?;
            let (_, name) = text.split_once(&format!("{}/", zones.trim_start_matches('/')))?;
            Some(name.to_owned())
        });
        let zone = zone.or_else(|| Some(std::fs::read_to_string("/etc/timezone").ok()?.trim().to_owned()));
        let known = |zone: &String| is_zone(zone) && Path::new(ZONES[0]).join(zone).exists();
        Locale { variables: variables.take(MAX_VARIABLES).collect(), zone: zone.filter(known) }
    }

    /// Validates a locale received from a client.
    ///
    /// # Errors
    /// Names the invalid variable or zone.
    pub fn check(&self) -> Result<(), String> {
        if self.variables.len() > MAX_VARIABLES {
            return Err(format!("{} variables of the locale; at most {MAX_VARIABLES}", self.variables.len()));
        }
        for (name, value) in &self.variables {
            if !is_name(name) {
                return Err(format!(
                    "the variable {name:?} is not one of TZ, LANG, LANGUAGE, LC_… and RUST_BACKTRACE"
                ));
            }
            if !is_value(value) {
                return Err(format!(
                    "the value of {name} is longer than {MAX_VALUE} bytes, or not printable ASCII"
                ));
            }
        }
        match &self.zone {
            Some(zone) if !is_zone(zone) => Err(format!("{zone:?} is not the name of a time zone")),
            _ => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    let category =
        |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    name.len() <= MAX_NAME
        && (matches!(name, "TZ" | "LANG" | "LANGUAGE" | "RUST_BACKTRACE")
            || name.strip_prefix("LC_").is_some_and(category))
}

fn is_value(value: &str) -> bool {
    value.len() <= MAX_VALUE && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Locale {
        Locale { variables: [(name.to_owned(), value.to_owned())].into(), zone: None }
    }

    #[test]
    fn own_locale_is_valid() {
        assert_eq!(Locale::of_this_process().check(), Ok(()));
    }

    #[test]
    fn invalid_variables_are_rejected_by_name() {
        for good in ["TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_TIME", "RUST_BACKTRACE"] {
            assert_eq!(with(good, "Europe/Berlin").check(), Ok(()), "{good}");
        }
        for bad in ["PATH", "LD_PRELOAD", "LC_", "LC_x", "tz", "", "TZ=x"] {
            let error = with(bad, "x").check().expect_err("another name");
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        for bad in ["a\nb", "é", &"x".repeat(MAX_VALUE + 1)] {
            assert!(with("TZ", bad).check().expect_err("a wild value").contains("value of TZ"), "{bad}");
        }
        let many = (0..=MAX_VARIABLES).map(|n| (format!("LC_{}", "A".repeat(n + 1)), String::new()));
        let many = Locale { variables: many.collect(), zone: None };
        assert!(many.check().expect_err("too many").contains("at most 20"));
        let traversal = Locale { zone: Some("../../etc/passwd".to_owned()), ..Locale::default() };
        assert!(traversal.check().expect_err("a path").contains("not the name of a time zone"));
    }
}
