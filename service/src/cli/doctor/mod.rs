//! `fastmap doctor`: whether maps can run on this machine and in the service that the environment names, and, where it is
//! to be a service itself, what it offers for jails; each finding with what to do about it.
//!
//! `machine` looks at what maps need, `unit` at the systemd unit around it, `workers` starts some, `client` asks the service, `queue` its
//! NATS servers, `serving` tries the jails.

mod client;
mod machine;
mod queue;
mod serving;
mod unit;
mod workers;

use anyhow::bail;
use serde::Serialize;
use serde_json::json;

use super::args::Doctor;
use super::output;

/// What was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// Its name, as it stays.
    name: &'static str,
    /// Whether it will do.
    good: bool,
    /// What was found.
    found: String,
    /// What to do, where it is not good or could be better.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn good(name: &'static str, found: impl Into<String>) -> Finding {
    Finding { name, good: true, found: found.into(), advice: None }
}

fn bad(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { good: false, ..fair(name, found, advice) }
}

/// Something that works, and could be better.
fn fair(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { name, good: true, found: found.into(), advice: Some(advice.into()) }
}

pub(crate) fn doctor(command: &Doctor) -> anyhow::Result<()> {
    let mut all = machine::look(command.serve);
    all.extend(unit::look());
    all.extend(workers::start());
    all.extend(client::ask());
    all.extend(queue::look(&command.nats));
    all.extend(serving::look(command.serve));
    let wrong = all.iter().filter(|finding| !finding.good).count();
    let line = |finding: &Finding| {
        let mark = match finding {
            Finding { good: false, .. } => "no",
            Finding { advice: Some(_), .. } => "--",
            _ => "ok",
        };
        let advice =
            finding.advice.as_ref().map(|advice| format!("\n{:21}-> {advice}", "")).unwrap_or_default();
        format!("{mark}  {:16} {}{advice}", finding.name, finding.found)
    };
    let text: Vec<String> = all.iter().map(line).collect();
    output::object(command.json, &json!({ "good": wrong == 0, "findings": all }), &text.join("\n"))?;
    match wrong {
        0 => Ok(()),
        _ => bail!("{wrong} of {} are not as they should be", all.len()),
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
