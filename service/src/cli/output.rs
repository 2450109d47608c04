//! Answers of commands: a table for people, JSON for programs.

use std::io::{self, Write};

use serde_json::Value;

/// Writes one object.
///
/// # Errors
/// If its reader is gone.
pub(super) fn object(json: bool, value: &Value, for_people: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json { writeln!(out, "{value}") } else { writeln!(out, "{for_people}") }
}

/// Writes a list: the columns are keys of its objects.
///
/// # Errors
/// If its reader is gone.
pub(super) fn list(json: bool, values: &[Value], columns: &[&str]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", Value::from(values.to_vec()));
    }
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = vec![columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>()];
    rows.extend(values.iter().map(|value| columns.iter().map(|column| cell(&value[*column])).collect()));
    let width = |at: usize| rows.iter().map(|row: &Vec<String>| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
