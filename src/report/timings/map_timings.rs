//! The report of timings of one map.

use std::path::PathBuf;

use crate::error::Error;
use crate::report::map_stats::MapStats;
use crate::report::timings::diagnosis;
use crate::report::timings::model::{Document, Map};
use crate::report::timings::output_file::Place;
use crate::report::timings::record::Recorder;

/// A map that takes no longer, in seconds, writes its file once: what stands there meanwhile would cost a twentieth of a
/// map of 3 ms, and is read by nobody.
const SHORT: f64 = 0.05;

/// The report of one map, if one is wanted.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    path: Option<PathBuf>,
    open: Option<Box<(Recorder, Place)>>,
}

impl Timings {
    pub(crate) fn at(path: Option<PathBuf>) -> Self {
        Timings { path, open: None }
    }

    pub(crate) fn none() -> Self {
        Timings::default()
    }

    /// The map begins.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        let Some(path) = self.path.take() else { return Ok(()) };
        self.open = Place::next(&path)?.map(|place| Box::new((Recorder::new(), place)));
        if self.open.is_some() {
            crate::report::timings::writer_thread::start();
        }
        Ok(())
    }

    /// What to tell, while it is recorded.
    #[inline]
    pub(crate) fn recorder(&mut self) -> Option<&mut Recorder> {
        self.open.as_mut().map(|open| &mut open.0)
    }

    /// The map goes on: once it has taken a while, the file says so.
    pub(crate) fn look_up(&mut self) {
        if let Some(open) = &mut self.open
            && open.0.now() > SHORT
        {
            open.1.tell_that_it_runs();
        }
    }

    /// The map is over: has the report written. To what is no file (a pipe, a terminal) it is written here and now, in the order of what
    /// else is written there.
    pub(crate) fn finish(&mut self, map: &Map<'_>, account: &MapStats) {
        let Some(open) = self.open.take() else { return };
        let (recorder, place) = *open;
        if !place.is_regular() {
            return write(place, recorder, map, account);
        }
        let [function, backend] = [map.function, map.backend].map(str::to_owned);
        let (label, total, microcredits) = (map.label.map(str::to_owned), map.total, map.microcredits);
        let account = account.clone();
        crate::report::timings::writer_thread::enqueue(move || {
            let label = label.as_deref();
            let map = Map { label, function: &function, backend: &backend, total, microcredits };
            write(place, recorder, &map, &account);
        });
    }
}

fn write(place: Place, recorder: Recorder, map: &Map<'_>, account: &MapStats) {
    let mut document = Document::new(recorder, map, account);
    document.diagnosis = diagnosis::of(&document);
    if place.is_json() {
        place.write(&(document.json() + "\n"));
    } else {
        place.write(&crate::report::timings::html::page(&document));
    }
}
