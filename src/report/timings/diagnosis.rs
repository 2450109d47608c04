//! What limited a map, in two or three sentences: a pure function of its figures, tested without a map.

use std::fmt::Write as _;

use super::record::{Died, Slow};
use crate::report::timings::format::{count, percent, seconds_of};
use crate::report::timings::model::Document;

/// Workers that were idle for less than this share of the time are what limits a map.
const IDLE: f64 = 0.2;
/// A straggler takes so many times the median item, and so many seconds.
const STRAGGLES: f64 = 10.0;
const LONG: f64 = 0.05;

/// The sentences: the limit first, then what went wrong.
pub(crate) fn of(document: &Document) -> Vec<String> {
    [Some(limit(document)), straggler(document), deaths(document), failures(document)]
        .into_iter()
        .flatten()
        .collect()
}

fn limit(document: &Document) -> String {
    let Document { seconds, program, workers, items, batches, .. } = document;
    let share = |part: f64| part / seconds.max(1e-9);
    if items.answered == 0 {
        return match (items.here, items.from_checkpoint) {
            (0, 0) => "No item was answered.".to_owned(),
            (0, _) => "All results came from the checkpoint.".to_owned(),
            _ => "The calling thread ran all items itself: they were not worth a process.".to_owned(),
        };
    }
    let (input, using) = (share(program.input), share(program.using));
    let waited = format!("the workers waited {} of theirs", percent(workers.idle));
    if workers.idle < IDLE {
        let cores = if workers.most < workers.cores { "More workers" } else { "More cores" };
        return format!(
            "The workers are the limit, as it should be: they were busy {} of the time. {cores}, or a quicker \
             function, would shorten the map.",
            percent(1.0 - workers.idle)
        );
    }
    if input >= 0.4 && input >= using {
        return format!(
            "The input iterator is the limit: reading it took {} of the time, and {waited}.",
            percent(input)
        );
    }
    if using >= 0.4 {
        return format!(
            "The program is the limit: using the results (and decoding them, and sending items) took {} of the time, \
             and {waited}.",
            percent(using)
        );
    }
    if let Some(first) = program.first_answer.filter(|first| share(*first) > 0.3) {
        return format!(
            "Starting is the limit: the first answer came after {}, of {} in all.",
            seconds_of(first),
            seconds_of(*seconds)
        );
    }
    if let Some(tail) = tail(document).filter(|tail| share(*tail) > IDLE / 2.0) {
        return format!(
            "The end is the limit: for the last {} only one worker had work, and {waited}.",
            seconds_of(tail)
        );
    }
    if batches.answered < 2 * workers.most as u64 {
        return format!(
            "There is too little to share out: {} for {}, and {waited}.",
            count(items.answered, "item"),
            count(workers.most as u64, "worker")
        );
    }
    format!(
        "No single limit: the workers were busy {} of the time, reading the input took {}, and using the results {}.",
        percent(1.0 - workers.idle),
        percent(input),
        percent(using)
    )
}

/// For how long one worker alone had work at the end.
fn tail(document: &Document) -> Option<f64> {
    let mut ends: Vec<f64> =
        document.lanes.iter().filter_map(|lane| lane.spans.last().map(|span| span.to)).collect();
    ends.sort_by(f64::total_cmp);
    match ends[..] {
        [.., before, last] => Some(last - before),
        _ => None,
    }
}

fn straggler(document: &Document) -> Option<String> {
    let slow = document.slowest.first()?;
    let median = document.item_seconds.median;
    if slow.seconds < LONG || slow.seconds < STRAGGLES * median * f64::from(slow.among) {
        return None;
    }
    let Slow { item, among, seconds, at, worker } = slow;
    let (who, took) = match among {
        1 => (format!("Item {item} is a straggler: it"), seconds_of(*seconds)),
        _ => {
            let last = item + u64::from(*among) - 1;
            (
                format!("There is a straggler among the items {item} to {last}: together they"),
                seconds_of(*seconds),
            )
        }
    };
    let times = seconds / (median * f64::from(*among)).max(1e-9);
    let mut sentence = format!("{who} took {took} on {worker}, {times:.0} times the median");
    let last = document.lanes.iter().filter_map(|lane| lane.spans.last()).map(|span| span.to);
    let is_last = last.fold(0.0, f64::max) <= at + 1e-3;
    if let Some(tail) = tail(document).filter(|tail| is_last && *tail > LONG) {
        let tail = seconds_of(tail.min(*seconds));
        let _infallible = write!(sentence, "; nothing else was left to run for the last {tail}");
    }
    match document.item_seconds.ten_times.saturating_sub(1) {
        0 => {}
        1 => sentence += "; another item took more than ten times the median",
        more => {
            let _infallible = write!(sentence, "; {more} others took more than ten times the median");
        }
    }
    Some(sentence + ".")
}

fn deaths(document: &Document) -> Option<String> {
    let Died { at, item, cause, .. } = document.deaths.first.first()?;
    let ran = item.map_or(String::new(), |item| format!(" while it ran item {item}"));
    let which = if document.deaths.total > 1 { "The first one" } else { "That" };
    let again = match document.retries.total {
        0 => String::new(),
        _ => "; what it ran was tried again".to_owned(),
    };
    Some(format!(
        "{} lost. {which} was after {}{ran}: {}{again}.",
        match document.deaths.total {
            1 => "1 worker was".to_owned(),
            more => format!("{more} workers were"),
        },
        seconds_of(*at),
        cause.trim_end_matches('.')
    ))
}

fn failures(document: &Document) -> Option<String> {
    let first = document.failures.first.first()?;
    let mut finding = format!(
        "{} failed: at first item {} ({}).",
        count(document.failures.total, "try"),
        first.item,
        first.what
    );
    if document.retries.total > 0 && document.items.failed == 0 {
        finding += " All of them have a result in the end.";
    }
    Some(finding)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastmap_backends::{BatchId, Results};

    use super::super::record::{Counted, Event, Recorder};
    use super::*;
    use crate::report::map_stats::MapStats;
    use crate::report::timings::model::Map;

    /// Two workers answer a thousand items of 10 ms each in 5 s; then `change`.
    fn map(change: impl FnOnce(&mut Document)) -> String {
        let mut recorder = Recorder::new();
        recorder.workers(2);
        for item in 0..1000u32 {
            let ended = Duration::from_millis(u64::from(item / 2) * 10 + 10);
            let answer = Results {
                wall: Duration::from_millis(10),
                worker: format!("worker-{}", item % 2 + 1),
                received_at: Some(recorder.begun + ended),
                slowest: Some((0, Duration::from_millis(10))),
                ..Results::default()
            };
            recorder.answered(BatchId(item.into()), false, u64::from(item), 1, &answer);
        }
        let account = MapStats {
            elapsed: Duration::from_secs(5),
            wall: Duration::from_secs(10),
            cpu: Duration::from_secs(10),
            waited: Duration::from_millis(4900),
            ..MapStats::example()
        };
        let about = Map { label: None, function: "f", backend: "local", total: Some(1000), microcredits: 0 };
        let mut document = Document::new(recorder, &about, &account);
        change(&mut document);
        of(&document).join(" ")
    }

    #[test]
    fn busy_workers_are_the_limit() {
        let text = map(|_| ());
        assert!(
            text.starts_with("The workers are the limit, as it should be: they were busy 100 %"),
            "{text}"
        );
        assert!(!text.contains("straggler") && !text.contains("lost") && !text.contains("failed"), "{text}");
    }

    #[test]
    fn a_slow_input_is_the_limit_and_its_share_is_told() {
        let text = map(|map| {
            (map.program.input, map.program.waiting, map.program.using) = (4.5, 0.2, 0.3);
            map.workers.idle = 0.63;
        });
        assert!(
            text.starts_with(
                "The input iterator is the limit: reading it took 90 % of the time, and the workers waited 63 % of theirs."
            ),
            "{text}"
        );
    }

    #[test]
    fn a_slow_consumer_is_the_limit() {
        let text = map(|map| {
            (map.program.input, map.program.waiting, map.program.using) = (0.3, 0.2, 4.5);
            map.workers.idle = 0.8;
        });
        assert!(text.starts_with("The program is the limit: using the results"), "{text}");
    }

    #[test]
    fn a_start_that_takes_longer_than_the_work_is_the_limit() {
        let text = map(|map| {
            map.workers.idle = 0.8;
            map.program.first_answer = Some(2.0);
        });
        assert!(
            text.starts_with("Starting is the limit: the first answer came after 2.00 s, of 5.00 s"),
            "{text}"
        );
    }

    #[test]
    fn a_straggler_is_named_with_what_it_held_up() {
        let text = map(|map| {
            map.workers.idle = 0.3;
            map.seconds = 8.0;
            let slow = &mut map.slowest[0];
            (slow.item, slow.among, slow.seconds, slow.at) = (77, 1, 3.2, 8.2);
            slow.worker = "worker-1".to_owned();
            let span = map.lanes[0].spans.last_mut().expect("it worked");
            (span.from, span.to) = (5.0, 8.2);
            map.item_seconds.ten_times = 3;
        });
        assert!(
            text.contains("The end is the limit: for the last 3.20 s only one worker had work"),
            "{text}"
        );
        assert!(text.contains("Item 77 is a straggler: it took 3.20 s on worker-1, 29"), "{text}");
        assert!(text.contains("nothing else was left to run for the last 3.20 s"), "{text}");
        assert!(text.contains("2 others took more than ten times the median"), "{text}");
    }

    #[test]
    fn a_batch_whose_items_nobody_told_apart_is_named_as_a_range() {
        let text = map(|map| {
            let slow = &mut map.slowest[0];
            (slow.item, slow.among, slow.seconds) = (70, 5, 3.0);
        });
        assert!(text.contains("a straggler among the items 70 to 74: together they took 3.00 s"), "{text}");
    }

    #[test]
    fn items_that_all_take_long_are_no_stragglers() {
        let text = map(|map| {
            map.slowest[0].seconds = 3.0;
            map.item_seconds.median = 2.0;
        });
        assert!(!text.contains("straggler"), "{text}");
    }

    #[test]
    fn deaths_and_failures_are_told_with_their_items() {
        let died = Died {
            at: 1.5,
            worker: "worker-1".to_owned(),
            item: Some(5),
            cause: "worker-1 was ended by signal 11 (SIGSEGV)".to_owned(),
        };
        let event = |what: &str| Event { at: 2.0, item: 9, what: what.to_owned() };
        let text = map(|map| {
            map.deaths = Counted { total: 3, first: vec![died.clone()] };
            map.retries = Counted { total: 1, first: vec![event("try 2, alone")] };
            map.failures = Counted { total: 1, first: vec![event("panicked: no")] };
        });
        assert!(
            text.contains("3 workers were lost. The first one was after 1.50 s while it ran item 5: "),
            "{text}"
        );
        assert!(text.contains("signal 11 (SIGSEGV); what it ran was tried again."), "{text}");
        assert!(
            text.contains("1 try failed: at first item 9 (panicked: no). All of them have a result"),
            "{text}"
        );
    }

    #[test]
    fn maps_without_workers_say_where_their_results_came_from() {
        let without = |here: u64, restored: u64| {
            map(|map| {
                map.items.answered = 0;
                (map.items.here, map.items.from_checkpoint) = (here, restored);
            })
        };
        assert!(without(0, 0).starts_with("No item was answered."));
        assert!(without(0, 9).starts_with("All results came from the checkpoint."));
        assert!(without(9, 0).starts_with("The calling thread ran all items itself"));
    }
}
