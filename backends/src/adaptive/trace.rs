//! What was seen and decided, as lines of JSON in a file: one map behind the other. Written by `run`, read by `explain`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::policy::{Event, Forecast, Options, Repeat, Side, Step};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// A map begins.
    Begin { label: Option<String>, function: String, items: Option<u64>, workers: u32, options: Options },
    /// Something was seen.
    Saw { at: f64, saw: Event },
    /// The policy was asked about the service, and wanted something new.
    Step { at: f64, step: Step, forecast: Forecast },
    /// From now on batches go to both; or only here again.
    Uses { at: f64, side: Side },
    /// A batch is done twice.
    Repeat { at: f64, repeat: Repeat },
    /// The map is over.
    End { at: f64, here: u64, there: u64, credits: f64 },
}

/// The file; nothing is written where it can't be.
#[derive(Debug)]
pub(super) struct Trace {
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// Appends to that file.
    pub(super) fn open(path: Option<&Path>) -> Trace {
        let file = path.and_then(|path| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|error| log::warn!("no trace: {} can't be written: {error}", path.display())).ok()
        });
        Trace { file: file.map(BufWriter::new) }
    }

    pub(super) fn line(&mut self, line: impl FnOnce() -> Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_writer(&mut *file, &line()).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|()| file.write_all(b"\n")) {
            log::warn!("the trace ends here: {error}");
            self.file = None;
        }
    }

    pub(super) fn end(&mut self) {
        if let Some(file) = &mut self.file {
            let _told = file.flush().map_err(|error| log::warn!("the trace is cut off: {error}"));
        }
    }
}
