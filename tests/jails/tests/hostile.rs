//! Workers that break the protocol on purpose: the host lives, says at which item, and goes on.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastmap::ErrorKind;
use fastmap::backends::{BackendError, Completion, Local, LocalOptions, Outcome};
use fastmap_backends::local::{Budget, Jailed, LogRecord, OutputSink, Stream};
use fastmap_test_jails::packets::{self, Packet};
use fastmap_test_jails::raw::{self, Act};
use fastmap_test_jails::{LIMIT, acts, config, copy, jail, jailed, limits, pool, pool_with};

fastmap::test_support!();

#[test]
fn lies_on_the_channel_cost_their_item_alone() {
    fn func(packet: Option<Packet>) -> u32 {
        packet.map_or(7, packets::send)
    }
    let config = config(pool(&jailed(limits()), 1));
    for packet in Packet::ALL {
        let items = (0..30).map(|n| (n == acts::BAD).then_some(packet));
        let results: Vec<_> = config.fastmap(func, items).collect();
        let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(|result| matches!(result, Ok(7)));
        assert_eq!((good.len(), bad.len()), (29, 1), "{packet:?}: {bad:?}");
        let error = bad[0].as_ref().expect_err("it never answers");
        assert_eq!(
            (error.kind(), error.index()),
            (ErrorKind::Crash, Some(acts::BAD as usize)),
            "{packet:?}: {error}"
        );
        let error = error.to_string();
        assert!(error.contains("broke the protocol") && error.contains(packet.told()), "{packet:?}: {error}");
    }
}

#[test]
fn a_host_of_workers_of_its_own_survives_a_lie_as_well() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_unguarded"))
        .arg("Huge")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("it is a child") {
            Some(status) => break status,
            None if started.elapsed() > LIMIT => panic!("it does not end: {:?}", child.kill()),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let printed = std::io::read_to_string(child.stdout.take().expect("a pipe")).expect("text");
    assert!(status.success() && printed.contains("broke the protocol"), "{status} {printed}");
}

#[test]
fn of_a_flood_of_log_records_some_are_left_out_and_no_item_fails() {
    const RECORDS: usize = 3000;
    fn chatter(n: u32) -> u32 {
        if n == acts::BAD {
            (0..RECORDS).for_each(|_| log::error!("{}", "x".repeat(500)));
        }
        n
    }
    // Nobody logs here; workers are told to send their records all the same.
    log::set_max_level(log::LevelFilter::Info);
    let records = Arc::new(Records::default());
    let relay: Arc<dyn OutputSink> = records.clone();
    let config = config(pool_with(&jailed(limits()), 2, |options| options.relay = relay));
    let answers: Vec<_> = config.fastmap(chatter, 0..30).collect();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let came = records.0.lock().expect("no panic").len();
    assert!((100..RECORDS).contains(&came), "{came}");
}

#[test]
fn a_worker_that_closes_everything_costs_its_item_alone() {
    fn close(n: u32) -> u32 {
        if n == acts::BAD {
            // SAFETY: closes what others use: that is the point.
            unsafe { libc::close_range(0, u32::MAX, 0) };
        }
        n
    }
    let config = config(pool(&jailed(limits()), 2));
    let results: Vec<_> = config.fastmap(close, 0..30).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 29, "{results:?}");
    assert_eq!(
        results[acts::BAD as usize].as_ref().expect_err("it is mute").index(),
        Some(acts::BAD as usize)
    );
}

#[test]
fn a_worker_that_stops_listening_holds_nobody_up() {
    /// Leaves every other thread of its process in a handler for ever: nothing is taken from the channel any more.
    #[allow(clippy::needless_pass_by_value, reason = "an item is the function's")]
    fn deafen(item: (u32, Vec<u8>)) -> u32 {
        extern "C" fn wait(_: i32) {
            acts::spin();
        }
        if item.0 == acts::BAD {
            // SAFETY: sets a handler, and signals the threads of this process that there may be.
            unsafe {
                libc::signal(libc::SIGUSR1, wait as *const () as libc::sighandler_t);
                let own = libc::gettid();
                for thread in (libc::getpid()..own + 100).filter(|thread| *thread != own) {
                    libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1);
                }
            }
            acts::spin();
        }
        item.0
    }
    let started = Instant::now();
    let config = config(pool(&jailed(limits()), 2));
    let items = (0..60u32).map(|n| (n, vec![0; 100_000]));
    let results: Vec<_> = config.fastmap(deafen, items).item_timeout(Duration::from_secs(2)).collect();
    let bad: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!((bad[0].kind(), bad[0].index()), (ErrorKind::Timeout, Some(acts::BAD as usize)), "{}", bad[0]);
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}

/// A pool of jails for one of this crate's programs.
fn pool_of(program: &str, change: impl FnOnce(&mut LocalOptions)) -> (Local, tempfile::TempDir) {
    let (folder, path) = copy(Path::new(program));
    (pool_with(&Arc::new(Jailed::new(jail(), &path, limits()).expect("it runs here")), 1, change), folder)
}

const RAW: &str = env!("CARGO_BIN_EXE_raw");

/// What comes of a batch of `items` items, granted `credit` bytes, in a worker that does so.
fn outcomes(act: &Act, items: u32, credit: u64) -> Result<Vec<Completion>, BackendError> {
    // What is begun and not gone on with is given up soon.
    let (local, _folder) = pool_of(RAW, |options| options.unfinished = Duration::from_millis(300));
    let (job, mut run) = raw::run(&local, act);
    raw::submit(run.as_mut(), job, 1, items, credit);
    let deadline = Instant::now() + LIMIT;
    let (mut completions, mut covered) = (Vec::new(), 0);
    while covered < items {
        let completion = run.poll(deadline)?.expect("it comes in time");
        covered += completion.items;
        completions.push(completion);
    }
    Ok(completions)
}

/// Why a batch's worker died, or why each died that was given the batch.
fn death(outcomes: Result<Vec<Completion>, BackendError>) -> String {
    match outcomes {
        Err(BackendError::NoWorkers(deaths)) => deaths[0].to_string(),
        Ok(completions) => match &completions[..] {
            [Completion { outcome: Outcome::Lost(_, loss), .. }] => loss.death.to_string(),
            other => panic!("{other:?}"),
        },
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_worker_by_hand_is_a_worker() {
    let completions = outcomes(&Act::Honest, 7, 100).expect("no error");
    assert!(
        matches!(&completions[..], [Completion { items: 7, outcome: Outcome::Done(_), .. }]),
        "{completions:?}"
    );
}

#[test]
fn an_answer_beyond_what_was_granted_is_not_taken() {
    for (items, bytes) in [(1, 1 << 20), (7, 300 << 10), (7, 100 << 20)] {
        let death = death(outcomes(&Act::Excess(bytes), items, 64 << 10));
        let words = [bytes.to_string(), (64u64 << 10).to_string()];
        assert!(words.iter().all(|word| death.contains(word)), "{death}");
    }
}

#[test]
fn a_frame_that_is_begun_and_not_gone_on_with_ends_its_worker() {
    let credit = 8 << 20;
    let unfinished = |announced, sent| outcomes(&Act::Unfinished { announced, sent }, 1, credit);
    let error = death(unfinished(8 << 20, 1 << 20));
    assert!(error.contains("sent nothing more of it"), "{error}");
    let error = death(unfinished(200 << 20, 50 << 20));
    assert!(error.contains(&(200u64 << 20).to_string()) && error.contains("granted 8388608"), "{error}");
}

#[test]
fn answers_that_nobody_takes_hold_up_the_workers_of_their_account_alone() {
    let all = Budget::new(4 << 20);
    let (full, other) = (Budget::within(&all, 1 << 20, 1 << 10), Budget::within(&all, 1 << 20, 1 << 10));
    let with = |budget: &Arc<Budget>| {
        let budget = Arc::clone(budget);
        let (local, folder) = pool_of(RAW, |options| options.budget = Some(budget));
        let (job, run) = raw::run(&local, &Act::Excess(900 << 10));
        (local, folder, job, run)
    };
    let (_local, _folder, job, mut run) = with(&full);
    let mut next = |id: u64| raw::submit(run.as_mut(), job, id, 1, 1 << 20);
    next(1);
    next(2);
    let first = run.poll(Instant::now() + LIMIT).expect("no error").expect("it comes");
    assert!(matches!(first.outcome, Outcome::Done(_)), "{first:?}");
    let held = full.used();
    assert!(held >= 900 << 10, "{held}");
    // As long as the first is held the second waits, and another account's does not.
    let (_other_local, _other_folder, other_job, mut other_run) = with(&other);
    raw::submit(other_run.as_mut(), other_job, 1, 1, 1 << 20);
    let others = other_run.poll(Instant::now() + LIMIT).expect("no error").expect("it comes");
    assert!(matches!(others.outcome, Outcome::Done(_)), "{others:?}");
    assert!(run.poll(Instant::now()).expect("no error").is_none() && full.used() == held);
    drop(first);
    let second = run.poll(Instant::now() + LIMIT).expect("no error").expect("it comes");
    assert!(matches!(second.outcome, Outcome::Done(_)), "{second:?}");
    drop((second, others, run, other_run));
    assert_eq!((full.used(), other.used(), all.used()), (0, 0, 0));
}

/// Keeps the records that come.
#[derive(Debug, Default)]
struct Records(Mutex<Vec<String>>);

impl OutputSink for Records {
    fn line(&self, _worker: &str, _stream: Stream, _line: &[u8]) {}

    fn record(&self, worker: &str, record: &LogRecord<'_>) {
        let told = format!("{worker} {} {} {}", record.level, record.target, record.message);
        self.0.lock().expect("no panic").push(told);
    }
}

#[test]
fn a_log_record_goes_to_the_relay_of_its_pool() {
    let records = Arc::new(Records::default());
    let relay: Arc<dyn OutputSink> = records.clone();
    let (local, _folder) = pool_of(RAW, |options| options.relay = relay);
    let act = Act::Log { target: "fastmap_service::cli".to_owned(), message: "two\nlines".to_owned() };
    let (job, mut run) = raw::run(&local, &act);
    raw::submit(run.as_mut(), job, 1, 1, 100);
    run.poll(Instant::now() + LIMIT).expect("no error").expect("it comes");
    assert_eq!(*records.0.lock().expect("no panic"), ["worker-1 INFO fastmap_service::cli two\nlines"]);
}

#[test]
fn answers_to_no_batch_end_the_worker() {
    for act in [Act::EmptyAnswers, Act::GiveBacks, Act::Refusals] {
        let death = death(outcomes(&act, 1, 100));
        assert!(death.contains("broke the protocol"), "{act:?}: {death}");
    }
}

#[test]
fn items_that_are_answered_one_by_one_are_the_clients_to_send_again() {
    let completions = outcomes(&Act::OneByOne, 1000, 1 << 20).expect("no error");
    let told: Vec<_> = completions.iter().map(|one| (one.first, one.items)).collect();
    assert_eq!(told, [(0, 1), (1, 999)], "the rest is not sent anew after each");
    assert!(matches!(completions[1].outcome, Outcome::Returned(_)), "{completions:?}");
}

#[test]
fn texts_of_a_worker_are_cut() {
    let Err(BackendError::Setup(failure)) = outcomes(&Act::Refuse(300 << 10), 1, 100) else {
        panic!("the job was refused")
    };
    assert!(
        failure.message.len() < 10_000 && failure.message.contains("left out"),
        "{}",
        failure.message.len()
    );
    let error = death(outcomes(&Act::Refuse(60 << 20), 1, 100));
    assert!(error.contains("broke the protocol"), "{error}");
    let completions = outcomes(&Act::Failure(50 << 10), 1, 64 << 10).expect("no error");
    let Outcome::Done(results) = &completions[0].outcome else { panic!("{completions:?}") };
    let message = &results.failures[0].message;
    assert!(message.len() < 10_000 && message.contains("left out"), "{}", message.len());
    let death = death(outcomes(&Act::Failures(50_000), 50_000, 64 << 10));
    assert!(death.contains("broke the protocol"), "{death}");
}

#[test]
fn greetings_that_bring_too_much_are_refused_in_words() {
    for (program, words) in
        [(env!("CARGO_BIN_EXE_crowd"), "it brings 5"), (env!("CARGO_BIN_EXE_beyond"), "100 bytes behind it")]
    {
        let (local, _folder) = pool_of(program, |_| ());
        let error = local.try_start(LIMIT).expect_err("it is refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}
