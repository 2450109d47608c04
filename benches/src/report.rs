//! What is written: a section of Markdown for each workload, its summary on stdout, and what was aimed at.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::chart::Chart;
use crate::contestant::WORKERS;
use crate::figures::short;
use crate::measure::{DISTURBED, Method, Outcome, Spread};
use crate::processes::cores;

/// A workload's results.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// What is measured, and how.
    pub(crate) words: String,
    pub(crate) heads: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) targets: Vec<Target>,
    pub(crate) chart: Option<Chart>,
    /// Rounds that were measured.
    pub(crate) rounds: usize,
    pub(crate) set_aside: usize,
    pub(crate) disturbed: usize,
}

/// What fastmap should reach, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) reached: Option<f64>,
    pub(crate) aim: Goal,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn new(what: impl Into<String>, reached: Option<f64>, aim: Goal) -> Self {
        Target { what: what.into(), reached, aim }
    }

    fn row(&self) -> [String; 4] {
        let (sign, limit, met) = match self.aim {
            Goal::AtMost(limit) => ('≤', limit, self.reached.is_some_and(|reached| reached <= limit)),
            Goal::AtLeast(limit) => ('≥', limit, self.reached.is_some_and(|reached| reached >= limit)),
        };
        let reached = self.reached.map_or_else(|| "–".to_owned(), |reached| format!("{reached:.2}"));
        [self.what.clone(), reached, format!("{sign} {limit}"), if met { "yes" } else { "no" }.to_owned()]
    }
}

impl Section {
    pub(crate) fn new(title: &str, words: impl Into<String>, heads: &[&str]) -> Self {
        Section {
            title: title.to_owned(),
            words: words.into(),
            heads: heads.iter().map(ToString::to_string).collect(),
            ..Section::default()
        }
    }

    pub(crate) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        self.rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }

    pub(crate) fn count(&mut self, outcome: &Outcome) {
        self.set_aside += outcome.set_aside;
        self.disturbed += outcome.disturbed;
    }

    /// As a section of a report.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.words);
        if let Some(chart) = &self.chart {
            let _ = writeln!(text, "![{}](images/{}.svg)\n", chart.caption, chart.name);
        }
        text += &table(&self.heads, &self.rows);
        if self.set_aside + self.disturbed > 0 {
            let _ = writeln!(
                text,
                "\nDisturbed by other processes: {} measurements set aside and repeated, {} kept although disturbed.",
                self.set_aside, self.disturbed
            );
        }
        text + "\n"
    }

    /// The same, for a terminal.
    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        println!("{}", table(&self.heads, &self.rows).trim_end());
        for target in &self.targets {
            let [what, reached, aim, met] = target.row();
            println!("  {what}: {reached}, aim {aim}: {met}");
        }
        if self.set_aside + self.disturbed > 0 {
            println!("  disturbed: {} set aside, {} kept", self.set_aside, self.disturbed);
        }
    }
}

fn table(heads: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .chain([&heads.to_vec()])
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(heads) + &line(&rule) + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// `median (least–most)`.
pub(crate) fn cell(spread: Option<Spread>) -> String {
    let Some(Spread { median, least, most }) = spread else { return "–".to_owned() };
    match least < most {
        true => format!("{} ({}–{})", short(median), short(least), short(most)),
        false => short(median),
    }
}

/// The simulator's tables, as a section below what was measured.
///
/// # Errors
/// If it can't be run, or fails.
pub(crate) fn simulated(simulator: &Path) -> Result<String, String> {
    let tables = |experiment: &str| {
        let output = Command::new(simulator)
            .args([experiment, "--seed", "1"])
            .output()
            .map_err(|error| format!("{} can't be run: {error}", simulator.display()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("{} {experiment}: {}", simulator.display(), output.status)),
        }
    };
    Ok(format!(
        "## In virtual time: 2 to 10,000 workers\n\n\
         Simulated, not measured: the rule by which batches are sized and handed out, with more workers than \
         this machine could run (`cargo run --release -p fastmap-simulator -- table`, then `host`; [method and \
         accuracy](../simulator/README.md)). The same seed gives the same tables on any machine.\n\n\
         {}\n### Host time for a batch\n\n{}",
        tables("table")?,
        tables("host")?
    ))
}

/// Writes `docs/benchmarks.md` and the charts beside it.
///
/// # Errors
/// If a file can't be written.
pub(crate) fn write(method: &Method, sections: &[Section], simulated: Option<&str>) -> io::Result<()> {
    let mut text = head(method, sections);
    let targets: Vec<Vec<String>> =
        sections.iter().flat_map(|section| &section.targets).map(|target| target.row().to_vec()).collect();
    if !targets.is_empty() {
        text += "## Targets\n\n";
        text += &table(&["fastmap".into(), "reached".into(), "aim".into(), "met".into()], &targets);
        text += "\n";
    }
    fs::create_dir_all("docs/images")?;
    for section in sections {
        text += &section.markdown();
        if let Some(chart) = &section.chart {
            fs::write(format!("docs/images/{}.svg", chart.name), chart.svg())?;
        }
    }
    text += simulated.unwrap_or_default();
    fs::write("docs/benchmarks.md", text.trim_end().to_owned() + "\n")
}

fn head(method: &Method, sections: &[Section]) -> String {
    let rounds = || sections.iter().map(|section| section.rounds);
    let rounds = match (rounds().min(), rounds().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (least, _) => least.unwrap_or(0).to_string(),
    };
    format!(
        "# Benchmarks\n\n\
         fastmap beside its peers, {WORKERS} workers each, so that the ideal speed-up is {WORKERS}. Repeat it with\n\n\
         ```sh\n\
         scripts/bench            # all of it; writes this file\n\
         scripts/bench --add W1 W2     # in portions: writes this file with the last missing one\n\
         scripts/bench --python   # with the Python peers, in an environment of their own under target/\n\
         scripts/bench --quick W2 W4   # two workloads, fewer rounds; writes nothing\n\
         scripts/bench callgrind  # instructions that an item costs the host, which do not depend on the machine's load\n\
         scripts/bench micro      # encoding, decoding and the functions that are mapped, each by itself\n\
         ```\n\n\
         | | |\n|---|---|\n{}\n\
         All contestants run in turn within a round, {} rounds, in an order that is rotated from round to round. \
         A cell is the median and, in brackets, the range; a ratio is taken within a round, and its median is shown. \
         Others' CPU time is counted (the machine's less the contestant's own): a measurement in which they took more \
         than {:.0} % of the cores is set aside and repeated, at most {} times, and reported.\n\n\
         *map* is `Iterator::map`. *raw* is this executable started again, a socket pair each, chunks of a \
         fixed size and no fault handling: the least cost of worker processes. It writes each item by serde, as \
         fastmap does; \
         *raw, by hand* is fitted to the types of its workload. *threads* are those of the standard library with \
         channels. The chunk sizes of raw, threads and procspawn are chosen by hand for each workload; fastmap finds \
         its own.\n\n",
        machine(),
        rounds,
        DISTURBED * 100.0,
        method.attempts - 1,
    )
}

/// Rows that say what it ran on.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let rustc = Command::new("rustc").arg("-V").output().map(|output| output.stdout).unwrap_or_default();
    let lock = include_str!("../../Cargo.lock");
    let version = |name: &str| {
        let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")));
        let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
        format!("{name} {}", version.unwrap_or("?"))
    };
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map(|output| output.stdout).unwrap_or_default();
    format!(
        "| processor | {} |\n| cores | {} |\n| system | Linux {} |\n| compiler | {} |\n| versions | {} |\n\
         | commit | {} |\n",
        model.map_or("unknown", |(_, model)| model),
        cores(),
        read("/proc/sys/kernel/osrelease").trim(),
        String::from_utf8_lossy(&rustc).trim(),
        ["fastmap", "rayon", "procspawn"].map(version).join(", "),
        String::from_utf8_lossy(&commit).trim(),
    )
}
