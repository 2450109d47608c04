//! Events and decisions of maps, appended to a file as lines of JSON, one map after the other. Written by
//! `run`, read by `explain`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::policy::{Event, Forecast, Options, Repeat, Side, Step};

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Start of a map.
    Begin { label: Option<String>, function: String, items: Option<u64>, workers: u32, options: Options },
    /// An event.
    Saw { at: f64, saw: Event },
    /// The policy was asked about the service, and decided on a change.
    Step { at: f64, step: Step, forecast: Forecast },
    /// From now on, batches go to this side as well.
    Uses { at: f64, side: Side },
    /// A batch is run on the other side as well.
    Repeat { at: f64, repeat: Repeat },
    /// End of a map.
    End { at: f64, here: u64, there: u64, credits: f64 },
}

/// Writer of a trace; `None` if there is no file, or it can't be written.
#[derive(Debug)]
pub(super) struct Trace {
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// Opens the file for appending.
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
            let _logged = file.flush().map_err(|error| log::warn!("the trace is cut off: {error}"));
        }
    }
}
