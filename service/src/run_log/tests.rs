//! Tests of `run_log`.

use tokio::sync::broadcast::error::TryRecvError;

use super::*;

fn keeping(most: usize) -> RunLogs {
    let kept = Kept { most, ..Kept::default() };
    RunLogs { kept: Arc::new(Mutex::new(kept)), forward: None }
}

fn print(events: &RunLogs, run: &str, lines: usize) {
    let relay = events.relay(run);
    (0..lines).for_each(|_| relay.line("w", Stream::Stdout, &[b'x'; 1000]));
}

/// What is kept, counted anew.
fn bytes(events: &RunLogs) -> usize {
    let kept = events.lock();
    let of_run = |watched: &Watched| watched.lines.iter().map(cost).sum::<usize>() + RUN;
    let bytes: usize = kept.runs.values().map(of_run).sum();
    assert_eq!(bytes, kept.bytes, "no one watches, or a channel would count as well");
    bytes
}

#[test]
fn runs_that_are_over_do_not_fill_the_memory_and_a_flood_drives_out_its_own() {
    const MOST: usize = 8 << 20;
    let events = keeping(MOST);
    print(&events, "other", 100);
    events.end("other", Some(2), RunState::Done);
    print(&events, "open", 100);
    for n in 0..100 {
        let run = format!("flood{n}");
        print(&events, &run, 800);
        events.end(&run, Some(1), RunState::Cancelled);
        assert!(bytes(&events) <= MOST);
    }
    let found = |run: &str| {
        let page = events.page(run, 0, usize::MAX);
        (page.lines.len(), page.dropped)
    };
    assert_eq!((found("other"), found("open")), ((100, 0), (100, 0)), "though it is the oldest");
    assert_eq!((found("flood99"), found("flood98")), ((800, 0), (800, 0)));
    // Forgotten whole, and a line says so.
    assert_eq!(found("flood0"), (0, 800));
    // Runs that never printed much are forgotten in the end, too.
    let events = keeping(64 * RUN);
    for n in 0..1000 {
        let run = n.to_string();
        print(&events, &run, 1);
        events.end(&run, None, RunState::Done);
        assert!(bytes(&events) <= 64 * RUN);
    }
}

#[test]
fn lines_of_open_runs_go_where_there_are_no_others_and_are_counted() {
    const MOST: usize = 4 << 20;
    let events = keeping(MOST);
    let runs: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    for run in &runs {
        print(&events, run, 800);
    }
    assert!(bytes(&events) <= MOST);
    for run in &runs {
        let page = events.page(run, 0, usize::MAX);
        assert_eq!(page.dropped + page.lines.len() as u64, 800, "{run}");
        assert_eq!(page.next, 800, "also where none is kept");
        print(&events, run, 1);
        assert_eq!(events.last(run, 1).next, 801, "its lines are counted on");
    }
    assert_eq!(events.open_runs().len(), 8);
}

#[test]
fn who_watches_hears_of_the_end_and_a_run_that_is_over_has_no_channel() {
    let events = RunLogs::default();
    drop(events.watch("r"));
    assert_eq!(events.lock().bytes, RUN + CHANNEL);
    print(&events, "r", 1);
    assert_eq!(events.lock().bytes, RUN + 1000 + LINE, "no one watches any more");
    let mut received = events.watch("r");
    print(&events, "r", 1);
    events.end("r", None, RunState::Done);
    events.end("r", None, RunState::Cancelled);
    assert!(matches!(received.try_recv(), Ok(Event::Log(LogLine { n: 2, .. }))));
    assert!(matches!(received.try_recv(), Ok(Event::Ended(RunState::Done))));
    assert!(matches!(received.try_recv(), Err(TryRecvError::Closed)));
    // A worker's last words come late.
    print(&events, "r", 1);
    assert_eq!(events.page("r", 0, 9).lines.len(), 3);
    assert!(matches!(events.watch("r").try_recv(), Err(TryRecvError::Closed)));
    assert_eq!((events.runs(), events.open_runs().len()), (vec!["r".to_owned()], 0));
    assert_eq!(bytes(&events), RUN + 3 * (1000 + LINE));
    events.forget("r");
    assert_eq!(bytes(&events), 0);
}

#[test]
fn a_flood_is_bounded_and_what_is_lost_is_counted() {
    let events = RunLogs::default();
    let relay = events.relay("r");
    for n in 0..30_000 {
        relay.line("w", Stream::Stderr, format!("line {n}\n").as_bytes());
    }
    relay.line("w", Stream::Stdout, &vec![b'x'; 1 << 20]);
    let page = events.page("r", 0, usize::MAX);
    assert_eq!(page.dropped + page.lines.len() as u64, 30_001);
    let bytes: usize = page.lines.iter().map(|line| line.text.len()).sum();
    assert!(bytes < KEPT && page.dropped > 0, "{bytes}");
    assert_eq!(page.next, 30_001);
    assert_eq!(page.lines.last().map(|line| line.text.len()), Some(LONGEST));
    assert_eq!(events.page("r", 30_000, 9).lines.len(), 1);
    assert!(events.page("other", 0, 9).lines.is_empty());
}

#[test]
fn a_log_record_is_a_line_of_its_run_with_level_and_target_and_none_of_the_services_log() {
    static LOGGED: AtomicU64 = AtomicU64::new(0);
    struct Own;
    impl log::Log for Own {
        fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            LOGGED.fetch_add(u64::from(record.target() == "credits"), Ordering::Relaxed);
        }

        fn flush(&self) {}
    }
    log::set_boxed_logger(Box::new(Own)).expect("no other test sets one");
    log::set_max_level(log::LevelFilter::Trace);
    let events = RunLogs::default();
    let relay = events.relay("r");
    let message = "x".repeat(LONGEST + 9);
    let record = LogRecord {
        level: Level::Warn,
        target: "credits",
        message: &message,
        module_path: None,
        file: None,
        line: None,
    };
    relay.record("worker-1", &record);
    relay.record("worker-1", &LogRecord { target: &"t".repeat(1000), message: "m", ..record });
    let lines = events.page("r", 0, 9).lines;
    let shape = |line: &LogLine| (line.level.clone(), line.target.as_ref().map(String::len), line.text.len());
    let cut = lines[0].text.strip_suffix(" bytes left out)").expect("its length is named");
    assert!(lines[0].text.len() <= LONGEST && cut.starts_with("xxx"), "{cut}");
    assert_eq!(shape(&lines[0]), (Some("WARN".to_owned()), Some(7), lines[0].text.len()));
    assert_eq!(shape(&lines[1]), (Some("WARN".to_owned()), Some(LONGEST_TARGET), 1));
    assert_eq!(lines[0].target.as_deref(), Some("credits"));
    bytes(&events);
    assert_eq!(LOGGED.load(Ordering::Relaxed), 0);
}

#[test]
fn what_there_is_no_room_for_is_told_with_the_next_line() {
    let (to, mut lines) = mpsc::channel(2);
    let relay = RunLogs::forwarding(to).relay("r");
    (0..5).for_each(|n| relay.line("w", Stream::Stdout, format!("{n}\n").as_bytes()));
    let mut next = || lines.try_recv().map(|(run, line)| (run, line.text, line.dropped)).ok();
    assert_eq!(next(), Some(("r".to_owned(), "0".to_owned(), 0)));
    assert_eq!(next(), Some(("r".to_owned(), "1".to_owned(), 0)));
    relay.line("w", Stream::Stdout, b"5\n");
    assert_eq!(next(), Some(("r".to_owned(), "5".to_owned(), 3)));
    // The last of them are counted when no more lines come.
    (6..10).for_each(|n| relay.line("w", Stream::Stdout, format!("{n}\n").as_bytes()));
    assert!(next().is_some() && next().is_some());
    relay.flush();
    let (_, text, dropped) = next().expect("two lines had no room");
    assert_eq!((&*text, dropped), ("[fastmap: 2 lines of this run had no room on the way]", 2));
    relay.flush();
    assert_eq!(next(), None);
}

#[test]
fn numbers_of_lines_count_what_agents_had_no_room_for() {
    let events = RunLogs::default();
    events.add("r", Line::default());
    events.add("r", Line { dropped: 5, ..Line::default() });
    let numbers: Vec<u64> = events.page("r", 0, 9).lines.iter().map(|line| line.n).collect();
    assert_eq!(numbers, [1, 7]);
    assert_eq!(events.last("r", 9).next, 7);
}
