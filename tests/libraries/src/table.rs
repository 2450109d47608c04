//! The table in docs/local-and-cloud.md.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;
use std::fs;

use crate::compare::{Row, Side};

const BEGIN: &str = "<!-- the comparison of libraries: written by scripts/try-libraries -->\n";
const END: &str = "<!-- the end of the comparison -->\n";

/// Acts whose outcome differs by nature, and what to do.
const DIFFERS: &[(&str, &str)] = &[(
    "a file of this machine is read",
    "a local worker is refused the file (`EPERM`), the service has none (`ENOENT`): give it as an item or \
        as the context",
)];

/// Acts that `map` does and a worker may not.
const REFUSED: &[&str] = &["a program is started", "a connection is made", "a symbolic link is made"];

fn remedy(name: &str) -> Option<&'static str> {
    DIFFERS.iter().find(|(other, _)| *other == name).map(|(_, remedy)| *remedy)
}

/// Whether the outcome of this act differs by nature.
pub(crate) fn differs(name: &str) -> bool {
    remedy(name).is_some()
}

/// Whether it is refused on both sides.
pub(crate) fn refused(name: &str) -> bool {
    REFUSED.contains(&name)
}

/// As a cell.
fn cell(texts: &BTreeSet<String>) -> String {
    let all: Vec<_> = texts.iter().map(|text| text.replace('|', "\\|")).collect();
    if all.is_empty() { "-".to_owned() } else { format!("`{}`", all.join("`, `")) }
}

fn row(row: &Row) -> String {
    let side = |side| row.both.get(&side).map_or_else(|| "-".to_owned(), cell);
    if row.agreed().is_some() {
        return format!("| {} | {} | equal | equal | equal | |\n", row.name, cell(&row.confined));
    }
    let (here, service) = (side(Side::Here), side(Side::Service));
    let remedy = remedy(row.name).unwrap_or_default();
    format!(
        "| {} | {} | {} | {here} | {service} | {remedy} |\n",
        row.name,
        cell(&row.confined),
        cell(&row.cloud)
    )
}

/// Writes the rows to their place.
///
/// # Errors
/// If the document can't be written, or has no place for them.
pub(crate) fn write(document: &str, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let whole = fs::read_to_string(document)?;
    let (before, rest) = whole.split_once(BEGIN).ok_or("the comparison has no place in the document")?;
    let (_, after) = rest.split_once(END).ok_or("the comparison has no end in the document")?;
    let mut table = "\n| act | LOCAL, confined | CLOUD | ADAPTIVE, here | ADAPTIVE, service | what to do |\n\
        |---|---|---|---|---|---|\n"
        .to_owned();
    for one in rows {
        table.write_str(&row(one))?;
    }
    table.push('\n');
    fs::write(document, format!("{before}{BEGIN}{table}{END}{after}"))?;
    Ok(())
}
