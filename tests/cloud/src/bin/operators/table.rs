//! What came of the pieces, as a table for docs/in-front-and-behind.md.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const BEGIN: &str = "<!-- what was tried: written by scripts/try-operators -->\n";
const END: &str = "<!-- the end of what was tried -->\n";
/// Beyond these it is not right, on a machine that does nothing else.
const NOTICED: Duration = Duration::from_secs(15);
const BACK: Duration = Duration::from_secs(10);

/// A trouble of a piece, or that there was none.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) piece: String,
    pub(crate) trouble: &'static str,
    /// How long it took until something said so, and what it was.
    pub(crate) noticed: Option<(Duration, String)>,
    /// How long after its end work went on. `None`: it does not go away by itself.
    pub(crate) back: Option<Duration>,
    pub(crate) outcome: String,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    text: String,
    wrong: Vec<String>,
}

impl Table {
    pub(crate) fn add(&mut self, name: &str, rows: &[Row], whole: bool) {
        for row in rows {
            let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
            let noticed = row.noticed.as_ref().map(|(time, _)| *time);
            let by = row.noticed.as_ref().map_or("–", |(_, by)| by);
            let (noticed_after, back) = (noticed.map(seconds), row.back.map(seconds));
            let dash = || "–".to_owned();
            let line = format!(
                "| {} | {} | {} | {by} | {} | {} |\n",
                row.piece,
                row.trouble,
                noticed_after.unwrap_or_else(dash),
                back.unwrap_or_else(dash),
                row.outcome
            );
            eprint!("{line}");
            self.text += &line;
            if noticed.is_some_and(|time| time > NOTICED) || row.back.is_some_and(|time| time > BACK) {
                self.wrong.push(format!("takes too long: {line}"));
            }
        }
        if !whole {
            self.wrong.push(format!("{name}: not all worked, see the panic above"));
        }
    }

    /// Writes the table into the document.
    pub(crate) fn write(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/in-front-and-behind.md");
        let document = fs::read_to_string(&path).expect("it is there");
        let (before, rest) = document.split_once(BEGIN).expect("the table has a place");
        let (_, after) = rest.split_once(END).expect("the table ends");
        fs::write(&path, format!("{before}{BEGIN}\n{}\n{END}{after}", self.whole()))
            .expect("it can be written");
    }

    fn whole(&self) -> String {
        let head = "| piece | trouble | noticed after, s | by | work goes on after its end, s | outcome |";
        format!("{head}\n|---|---|---|---|---|---|\n{}", self.text)
    }

    /// Prints all; fails if anything is wrong.
    pub(crate) fn verdict(&self) -> ExitCode {
        print!("{}", self.whole());
        for wrong in &self.wrong {
            println!("\nwrong: {wrong}");
        }
        if self.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
