//! Runs the program with each policy and compares what it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::acts::{GROUPS, Group};
use crate::table;

/// Where an item was computed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Side {
    Here,
    Service,
    /// It failed.
    Unknown,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Here => "here",
            Side::Service => "service",
            Side::Unknown => "unknown",
        })
    }
}

impl Side {
    fn of(word: &str) -> Side {
        [Side::Here, Side::Service].into_iter().find(|side| side.to_string() == word).unwrap_or(Side::Unknown)
    }
}

/// What was said by the items of an act, each side's own. One text, if they agree.
pub(crate) type Said = BTreeMap<Side, BTreeSet<String>>;

/// What the acts said under one policy, by their names.
type Outcome = BTreeMap<String, Said>;

/// An act, and what it said under each policy.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What must be in it.
    says: &'static str,
    /// By `map`, where that can be tried.
    plain: Option<BTreeSet<String>>,
    pub(crate) confined: BTreeSet<String>,
    pub(crate) cloud: BTreeSet<String>,
    pub(crate) both: Said,
}

impl Row {
    /// All of them, if each side said the same.
    pub(crate) fn agreed(&self) -> Option<&str> {
        let all: BTreeSet<&String> =
            self.confined.iter().chain(&self.cloud).chain(self.both.values().flatten()).collect();
        if all.len() == 1 { all.first().map(|text| text.as_str()) } else { None }
    }

    /// Why it is not as it should be.
    fn wrong(&self) -> Option<String> {
        if !table::differs(self.name) {
            let Some(agreed) = self.agreed() else { return Some("not equal".to_owned()) };
            if !agreed.contains(self.says) {
                return Some(format!("not {:?}", self.says));
            }
            if self.plain.as_ref().is_some_and(|plain| !plain.contains(agreed)) && !table::refused(self.name)
            {
                return Some("not what map gives".to_owned());
            }
        }
        let missing = |side: &Side| !self.both.contains_key(side);
        [Side::Here, Side::Service]
            .iter()
            .find(|side| missing(side))
            .map(|side| format!("never computed: {side}"))
    }
}

/// What the environment of a run says.
type Settings = &'static [(&'static str, &'static str)];

const CONFINED: Settings =
    &[("FASTMAP_EXEC_POLICY", "local"), ("FASTMAP_SANDBOX", "require"), ("FASTMAP_LOCAL_PROCESSES", "2")];
const CLOUD: Settings = &[("FASTMAP_EXEC_POLICY", "cloud")];
const BOTH: Settings =
    &[("FASTMAP_EXEC_POLICY", "adaptive"), ("FASTMAP_SANDBOX", "require"), ("FASTMAP_LOCAL_PROCESSES", "1")];

/// Runs this program; what it printed of each act.
fn run(arguments: &[&str], settings: Settings) -> Result<Outcome, Box<dyn Error>> {
    let begun = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).envs(settings.iter().copied()).stdin(Stdio::null());
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    eprintln!("== {arguments:?} {settings:?}: {:.1?}\n{errors}", begun.elapsed());
    if !output.status.success() {
        return Err(format!("{arguments:?} {settings:?}: {}", output.status).into());
    }
    let mut outcome = Outcome::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // Workers' own lines pass through.
        if let [name, side, said] = line.splitn(3, '\t').collect::<Vec<_>>()[..] {
            let sides = outcome.entry(name.to_owned()).or_default();
            sides.entry(Side::of(side)).or_default().insert(said.to_owned());
        }
    }
    let both = errors.contains("items here, ") && errors.contains(" in the service");
    if settings == BOTH && !both {
        return Err("no map of ADAPTIVE was computed on both sides".into());
    }
    Ok(outcome)
}

/// Each text, whatever its side.
fn texts(outcome: &mut Outcome, name: &str) -> BTreeSet<String> {
    outcome.remove(name).unwrap_or_default().into_values().flatten().collect()
}

fn compare(group: &Group, files: &[&str]) -> Result<Vec<Row>, Box<dyn Error>> {
    let files: &[&str] = if group.name.starts_with("libomp") { files } else { &[] };
    let map = |copies, settings| run(&[&["map", group.name, copies], files].concat(), settings);
    let mut plain = run(&[&["plain", group.name, "2"], files].concat(), &[])?;
    let mut confined = map("2", CONFINED)?;
    let mut cloud = map("2", CLOUD)?;
    let mut both = map("4", BOTH)?;
    let row = |act: &'static crate::Act| Row {
        name: act.name,
        says: act.says,
        plain: Some(texts(&mut plain, act.name)).filter(|plain| !plain.is_empty()),
        confined: texts(&mut confined, act.name),
        cloud: texts(&mut cloud, act.name),
        both: both.remove(act.name).unwrap_or_default(),
    };
    Ok(group.acts().map(row).collect())
}

/// Compares all groups, and writes the table.
///
/// # Errors
/// If a run ends badly, or an act has another outcome on one side without a row that says so.
pub(crate) fn all(document: &str, files: &[&str]) -> Result<(), Box<dyn Error>> {
    let (mut rows, mut wrong) = (Vec::new(), 0);
    for group in GROUPS {
        for row in compare(group, files)? {
            match row.wrong() {
                None => println!("{:<50} {}", row.name, row.agreed().unwrap_or("differs as the table says")),
                Some(why) => {
                    println!("{:<50} WRONG, {why}: {row:#?}", row.name);
                    wrong += 1;
                }
            }
            rows.push(row);
        }
    }
    if wrong > 0 {
        return Err(format!("{wrong} of {} acts went wrong", rows.len()).into());
    }
    table::write(document, &rows)?;
    println!("{} acts: the same confined, in the service, and on both sides of one map", rows.len());
    Ok(())
}
