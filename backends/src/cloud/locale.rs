//! Time zone and language of a program, which travel with its runs: functions that format times or compare
//! texts answer in the service as they do here. So does the variable that asks for the frames of panics. Read
//! by `run_thread` when it opens a run, checked by the gateway, given by the agent to the run's workers.

use std::collections::BTreeMap;
use std::path::Path;

use fastmap_sandbox::is_zone;
use serde::{Deserialize, Serialize};

/// Most variables: the C library knows a dozen.
const VARIABLES: usize = 20;
/// Most bytes of a variable's name, and of its value.
const NAME: usize = 32;
const VALUE: usize = 256;
/// The folder of the zone database, to a file of which the link of the local time leads.
const ZONES: [&str; 2] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo"];

/// Time zone and language of a client's program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Locale {
    /// Those of `TZ`, `LANG`, `LANGUAGE`, the `LC_…` and `RUST_BACKTRACE` that are set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The machine's time zone, as the zone database calls it; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Locale {
    /// That of this process. A variable that can't travel is left out.
    pub fn of_this_process() -> Locale {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let travels = is_name(&name) && is_value(&value);
            travels.then_some((name, value))
        });
        let zone = ZONES.iter().find_map(|zones| {
            let link = std::fs::read_link("/etc/localtime").ok()?;
            // Most links are absolute; some lead there by `..`.
            let text = link.to_str()?;
            let (_, name) = text.split_once(&format!("{}/", zones.trim_start_matches('/')))?;
            Some(name.to_owned())
        });
        let zone = zone.or_else(|| Some(std::fs::read_to_string("/etc/timezone").ok()?.trim().to_owned()));
        let known = |zone: &String| is_zone(zone) && Path::new(ZONES[0]).join(zone).exists();
        Locale { variables: variables.take(VARIABLES).collect(), zone: zone.filter(known) }
    }

    /// What is wrong with one that a stranger has sent, in words.
    ///
    /// # Errors
    /// Names the variable, or the zone.
    pub fn check(&self) -> Result<(), String> {
        if self.variables.len() > VARIABLES {
            return Err(format!("{} variables of the locale; at most {VARIABLES}", self.variables.len()));
        }
        for (name, value) in &self.variables {
            if !is_name(name) {
                return Err(format!(
                    "the variable {name:?} is not one of TZ, LANG, LANGUAGE, LC_… and RUST_BACKTRACE"
                ));
            }
            if !is_value(value) {
                return Err(format!(
                    "the value of {name} is longer than {VALUE} bytes, or not printable ASCII"
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
    name.len() <= NAME
        && (matches!(name, "TZ" | "LANG" | "LANGUAGE" | "RUST_BACKTRACE")
            || name.strip_prefix("LC_").is_some_and(category))
}

fn is_value(value: &str) -> bool {
    value.len() <= VALUE && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Locale {
        Locale { variables: [(name.to_owned(), value.to_owned())].into(), zone: None }
    }

    #[test]
    fn what_a_process_says_passes_its_own_check() {
        assert_eq!(Locale::of_this_process().check(), Ok(()));
    }

    #[test]
    fn variables_of_other_names_and_wild_values_are_refused_by_name() {
        for good in ["TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_TIME", "RUST_BACKTRACE"] {
            assert_eq!(with(good, "Europe/Berlin").check(), Ok(()), "{good}");
        }
        for bad in ["PATH", "LD_PRELOAD", "LC_", "LC_x", "tz", "", "TZ=x"] {
            let said = with(bad, "x").check().expect_err("another name");
            assert!(said.contains(&format!("{bad:?}")), "{said}");
        }
        for bad in ["a\nb", "é", &"x".repeat(VALUE + 1)] {
            assert!(with("TZ", bad).check().expect_err("a wild value").contains("value of TZ"), "{bad}");
        }
        let many = (0..=VARIABLES).map(|n| (format!("LC_{}", "A".repeat(n + 1)), String::new()));
        let many = Locale { variables: many.collect(), zone: None };
        assert!(many.check().expect_err("too many").contains("at most 20"));
        let away = Locale { zone: Some("../../etc/passwd".to_owned()), ..Locale::default() };
        assert!(away.check().expect_err("a path").contains("not the name of a time zone"));
    }
}
