//! What came of the runs, compared with what is right, as a table for docs/reliability.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use crate::play::{Mode, Seen};
use crate::way::{Want, Way};

const BEGIN: &str = "<!-- the ways to live and end: written by scripts/try-lives -->\n";
const END: &str = "<!-- the end of the ways -->\n";

/// A row for each way.
#[derive(Debug)]
pub(crate) struct Table {
    modes: Vec<Mode>,
    text: String,
    wrong: Vec<String>,
}

impl Table {
    pub(crate) fn new(modes: &[Mode]) -> Table {
        let names = modes.iter().map(|mode| match mode {
            Mode::Plain => "`map`",
            Mode::Local => "LOCAL",
            Mode::Cloud => "CLOUD",
        });
        let head = format!("\n| way | {} | right |\n|---|{}---|\n", join(names), "---|".repeat(modes.len()));
        Table { modes: modes.to_vec(), text: head, wrong: Vec::new() }
    }

    /// Plays a way under each mode.
    pub(crate) fn add(&mut self, way: &Way, play: impl Fn(Mode) -> Option<Result<Seen, String>>) {
        let (mut begun, mut cells) = (Instant::now(), Vec::new());
        for mode in self.modes.clone() {
            cells.push(match play(mode) {
                None => "–".to_owned(),
                Some(Err(lacks)) => lacks,
                Some(Ok(seen)) => self.judge(way, mode, &seen),
            });
            eprintln!(
                "{:5.1} s  {}, {mode:?}: {}",
                begun.elapsed().as_secs_f64(),
                way.name,
                cells.last().unwrap_or(&String::new())
            );
            begun = Instant::now();
        }
        let reason = |right: &Option<(Want, &'static str)>| right.as_ref().map(|(_, why)| *why);
        let mut right =
            reason(&way.ours).unwrap_or(if way.has_plain { "as `map`" } else { "all answers" }).to_owned();
        if let Some(why) = reason(&way.cloud).filter(|_| self.modes.contains(&Mode::Cloud)) {
            write!(right, "; CLOUD: {why}").expect("room");
        }
        let row = format!("| {} | {} | {right} |\n", way.name, join(cells.iter().map(String::as_str)));
        self.text += &row;
    }

    /// The cell of a run.
    fn judge(&mut self, way: &Way, mode: Mode, seen: &Seen) -> String {
        let cell = format!("{}, {}, {}, {}", seen.answered, seen.lost, seen.left, seen.end);
        let ours = way.ours.as_ref().map_or(&way.plain, |(want, _)| want);
        let want = match mode {
            Mode::Plain => &way.plain,
            Mode::Local => ours,
            Mode::Cloud => way.cloud.as_ref().map_or(ours, |(want, _)| want),
        };
        let speaks = mode == Mode::Plain || seen.stderr.contains(way.says);
        let as_wanted = want.answered.0.contains(&seen.answered)
            && want.lost.0.contains(&seen.lost)
            && (seen.again == 0 || way.again)
            && seen.left == 0
            && seen.trouble.is_none()
            && want.end.split(" or ").any(|end| end == seen.end);
        if as_wanted && speaks {
            return cell;
        }
        let cell = if seen.again > 0 { format!("{cell}, {} again", seen.again) } else { cell };
        let (answered, lost, end) = (&want.answered.0, &want.lost.0, want.end);
        let mut wrong = format!("{}, {mode:?}: {cell}; right is {answered:?}, {lost:?}, 0, {end}", way.name);
        if !speaks {
            write!(wrong, " and a word of {:?}", way.says).expect("room");
        }
        let lines: Vec<&str> = seen.stderr.lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        for line in seen.trouble.iter().map(String::as_str).chain(last.iter().copied()) {
            write!(wrong, "\n    {line}").expect("room");
        }
        self.wrong.push(wrong);
        format!("**{cell}**")
    }

    /// Writes the table into the document.
    pub(crate) fn write(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reliability.md");
        let document = fs::read_to_string(&path).expect("it is there");
        let (before, rest) = document.split_once(BEGIN).expect("the table has a place");
        let (_, after) = rest.split_once(END).expect("the table ends");
        fs::write(&path, format!("{before}{BEGIN}{}\n{END}{after}", self.text)).expect("it can be written");
    }

    /// Prints all; fails if anything is wrong.
    pub(crate) fn verdict(&self) -> ExitCode {
        print!("{}", self.text);
        for wrong in &self.wrong {
            println!("\nwrong: {wrong}");
        }
        if self.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn join<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join(" | ")
}
