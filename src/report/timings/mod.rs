//! The report of timings of a map: what its workers and the program did over time, and what limited it.
//!
//! `record` collects, `lanes` and `bins` in bounded memory, while the map runs. At its end `map_timings` makes the figures (`model`), the sentences
//! (`diagnosis`) and the page (`html`, `charts`), and `output_file` writes them; all of that in `writer_thread`. Nothing
//! of it exists for a map without a path.

mod bins;
mod charts;
mod diagnosis;
mod format;
mod html;
mod lanes;
pub(crate) mod map_timings;
mod model;
mod output_file;
mod record;
mod writer_thread;

pub(crate) use crate::report::timings::model::Map;
pub(crate) use crate::report::timings::writer_thread::wait as wait_until_written;
pub(crate) use map_timings::Timings;
