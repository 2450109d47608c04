//! W6: an input without an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::contestant::{Contestant, Plan};
use crate::functions::{Spin, Work, turns};
use crate::measure::{Entry, Method, entries};
use crate::report::{Goal, Section, Target};

const TAKEN: u64 = 100;
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn measure(_method: &Method) -> Section {
    let turns = turns(Duration::from_millis(1));
    let mut section = Section::new(
        "W6: infinite input",
        "100 results are taken of a map over an infinite input, 1 ms an item; the table has the items read \
         from the input by then, and after the consumer has paused for 2 s. rayon's `par_bridge` gives them unordered.",
        &["", "read", "after the pause"],
    );
    let contestants: Vec<Entry<(u64, u64)>> =
        entries!([Builtin, Bridge, Threads, Raw, Procspawn, Fastmap], read::<Spin>(turns));
    for mut entry in contestants {
        let (at_once, later) = (entry.run)();
        section.row(&entry.name, [at_once, later].map(|items| items.to_string()));
        if entry.name == "fastmap" {
            let reached = Some(later as f64);
            section.targets.push(Target::new(
                "W6: items read for 100 taken, after a pause",
                reached,
                Goal::AtMost(250.0),
            ));
        }
    }
    section
}

/// Items read when the last wanted result is there, and after the pause.
fn read<W: Work<In = u64>, C: Contestant<W>>(turns: u64) -> (u64, u64) {
    let read = AtomicU64::new(0);
    let item = |_| {
        read.fetch_add(1, Ordering::Relaxed);
        turns
    };
    let mut taken = 0;
    let mut counts = (0, 0);
    C::start(Plan::chunks_of(1)).map(u64::from(u32::MAX), item, |_| {
        taken += 1;
        if taken == TAKEN {
            counts.0 = read.load(Ordering::Relaxed);
            thread::sleep(PAUSE);
            counts.1 = read.load(Ordering::Relaxed);
        }
        taken < TAKEN
    });
    counts
}
