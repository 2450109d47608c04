//! All findings of `fastmap doctor`, printed.

use anyhow::bail;
use serde_json::json;

use super::finding::Finding;
use crate::cli::args::Doctor;
use crate::cli::output;

pub(crate) fn doctor(command: &Doctor) -> anyhow::Result<()> {
    let mut all = super::machine::look(command.serve);
    all.extend(super::unit::look());
    all.extend(super::workers::start());
    all.extend(super::client::ask());
    all.extend(super::queue::look(&command.nats));
    all.extend(super::serving::look(command.serve));
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
